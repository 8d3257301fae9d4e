"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const { image } = data;
const element = (id) => document.getElementById(id);
const [confidence, layerMenu, levelMenu, attentionMenu] =
  ["confidence", "layer", "level", "attention"].map(element);
const state = { x: null, y: null };

function html(parent, tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.append(node);
  return node;
}

function svg(parent, tag, attributes = {}) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.append(node);
  return node;
}

function bytes(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

// Pictures -------------------------------------------------------------------------------------

const panels = data.models.map((model, index) => buildPanel(model, index));

function buildPanel(model, index) {
  const article = html(element("models"), "article", undefined, { "aria-label": model.name });
  html(article, "h2", model.name);
  html(article, "p", model.file, { class: "file", title: model.file });
  const picture = svg(article, "svg", {
    class: "picture", viewBox: `0 0 ${image.width} ${image.height}`, tabindex: 0,
    role: "application", "aria-roledescription": "picture", "data-model": index,
    "aria-label": `Detections of ${model.name}; arrow keys move the chosen pixel`,
  });
  const style = image.enlarged ? "pixels" : "photo";
  svg(picture, "image", { href: image.source, width: image.width, height: image.height, class: style });
  const parts = {};
  for (const name of ["tokens", "boxes", "labels", "samples"]) parts[name] = svg(picture, "g");
  parts.tokens.setAttribute("aria-hidden", "true");
  const found = html(article, "p", undefined, { class: "found", "aria-live": "polite" });
  const note = html(article, "p", "", { class: "note" });
  const missing = html(article, "p", "", { class: "missing", role: "status" });
  addTimes(article, model);
  addLayers(article, model);
  drawBoxes(parts, model);
  picture.addEventListener("click", (event) => choose(pixelAt(picture, event)));
  picture.addEventListener("keydown", moveByKeys);
  return { model, picture, parts, found, note, missing };
}

function drawBoxes(parts, model) {
  // Best last, over the others.
  for (const box of [...model.boxes].reverse()) {
    const [left, top, right, bottom] = box.box;
    const group = svg(parts.boxes, "g", { class: "detection", "data-score": box.score });
    svg(group, "title").textContent = box.label;
    const place = { x: left, y: top, width: right - left, height: bottom - top };
    svg(group, "rect", { ...place, class: "box edge" });
    svg(group, "rect", { ...place, class: "box", stroke: data.classes[box.class].color });
  }
  for (const kind of ["long", "short"]) {
    for (const box of model.boxes) {
      if (!box[kind]) continue;
      const [left, top, width, height] = box[kind];
      const group = svg(parts.labels, "g", { "data-score": box.score, "data-kind": kind });
      const { color, ink } = data.classes[box.class];
      svg(group, "rect", { x: left, y: top, width, height, fill: color });
      const size = height / 1.35;
      const text = svg(group, "text", {
        x: left + width / 2, y: top + height / 2, fill: ink, "font-size": size,
        textLength: width - .6 * size, lengthAdjust: "spacingAndGlyphs",
      });
      text.textContent = kind === "long" ? box.label : box.shortLabel;
    }
  }
}

function addTimes(article, model) {
  const slowest = Math.max(...data.models.map((other) => other.times.total));
  const bar = html(article, "div", undefined, { class: "bar", "aria-hidden": "true" });
  const table = html(article, "table", undefined, { class: "times" });
  html(table, "caption", `Milliseconds, ${data.rounds === 1 ? "one run" : `median of ${data.rounds} runs`}`);
  const head = html(html(table, "thead"), "tr"), row = html(html(table, "tbody"), "tr");
  for (const [part, color] of Object.entries(data.parts)) {
    const cell = html(head, "th", "", { scope: "col" });
    if (color) {
      html(cell, "span", undefined, { class: "swatch", style: `display: inline-block; background: ${color}` });
      const share = 100 * model.times[part] / slowest;
      html(bar, "span", undefined, { style: `width: ${share}%; background: ${color}` });
    }
    cell.append(` ${part}`);
    html(row, "td", model.times[part].toFixed(1), { "data-part": part });
  }
}

function addLayers(article, model) {
  const table = html(article, "table");
  html(table, "caption", "Tokens that each encoder layer updates");
  const head = html(html(table, "thead"), "tr"), body = html(table, "tbody");
  for (const title of ["layer", ...model.levels.map((level) => `stride ${level.stride}`), "all", "%"]) {
    html(head, "th", title, { scope: "col" });
  }
  model.layers.forEach((layer, index) => {
    const row = html(body, "tr");
    html(row, "th", index + 1, { scope: "row" });
    for (const count of layer.counts) html(row, "td", count);
    const kept = layer.counts.reduce((sum, count) => sum + count, 0);
    html(row, "td", kept, { "data-kept": index });
    html(row, "td", Math.round(100 * kept / layer.total));
  });
}

// Controls -------------------------------------------------------------------------------------

function showDetections() {
  const threshold = confidence.valueAsNumber / 100;
  element("confidence-value").textContent = `${confidence.value} %`;
  for (const { model, picture, parts, found } of panels) {
    const visible = model.boxes.filter((box) => box.score >= threshold);
    const kind = visible.length <= model.longLabels ? "long" : "short";
    picture.classList.toggle("dense", kind === "short");
    for (const node of [...parts.boxes.children, ...parts.labels.children]) {
      const isShown = node.dataset.score >= threshold && (node.dataset.kind ?? kind) === kind;
      node.style.display = isShown ? "" : "none";
    }
    const best = model.boxes.length ? model.boxes[0].score : 0;
    const counts = data.classes.map(({ name }, index) => [visible.filter((box) => box.class === index).length, name]);
    const names = counts.filter(([count]) => count).map(([count, name]) => `${count} ${name}`).join(", ");
    const noun = visible.length === 1 ? "object" : "objects";
    const rest = visible.length ? `: ${names}` : `, the best has ${Math.round(100 * best)} %`;
    found.textContent = `${visible.length} ${noun}${rest}`;
    found.dataset.count = visible.length;
  }
  showLegend();
}

function showLegend() {
  const shown = { tokens: layerMenu.value !== "", samples: attentionMenu.value !== "none" };
  const threshold = confidence.valueAsNumber / 100;
  const boxes = data.models.flatMap((model) => model.boxes).filter((box) => box.score >= threshold);
  const names = new Set(boxes.map((box) => data.classes[box.class].name));
  for (const entry of element("legend").children) {
    entry.hidden = !(shown[entry.dataset.group] ?? names.has(entry.textContent));
  }
}

function showTokens() {
  showLegend();
  for (const { model, parts, missing } of panels) {
    parts.tokens.replaceChildren();
    missing.textContent = "";
    if (layerMenu.value === "") continue;
    const layer = model.layers[layerMenu.value], count = model.layers.length;
    if (!layer) {
      missing.textContent = `No layer ${Number(layerMenu.value) + 1}: this encoder has ${count}`;
      continue;
    }
    const states = bytes(layer.states);
    let start = 0;
    model.levels.forEach((level, index) => {
      const part = states.subarray(start, start += level.rows * level.columns);
      if (levelMenu.value === "" || Number(levelMenu.value) === index) {
        drawTokens(parts.tokens, level, part, levelMenu.value === "" ? model.levels.length : 1);
      }
    });
  }
}

function drawTokens(parent, level, states, shown) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [level.columns, level.rows];
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(level.columns, level.rows);
  states.forEach((value, index) => {
    const [red, green, blue, alpha] = data.states[value].color;
    // Levels that lie on top of each other darken together as much as one alone.
    const opacity = value ? alpha / shown : 1 - (1 - alpha) ** (1 / shown);
    pixels.data.set([red, green, blue, 255 * opacity], 4 * index);
  });
  context.putImageData(pixels, 0, 0);
  svg(parent, "image", {
    href: canvas.toDataURL(), width: level.width, height: level.height,
    preserveAspectRatio: "none", class: "tokens",
  });
}

function pixelAt(picture, event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
  return [point.x, point.y];
}

function moveByKeys(event) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const step = Math.max(image.width, image.height) * (event.shiftKey ? .1 : .01);
  const [x, y] = state.x === null ? [image.width / 2, image.height / 2] : [state.x, state.y];
  choose([x + step * steps[event.key][0], y + step * steps[event.key][1]]);
}

function choose([x, y]) {
  state.x = Math.min(Math.max(x, 0), image.width - 1);
  state.y = Math.min(Math.max(y, 0), image.height - 1);
  element("pixel").textContent = `pixel ${Math.round(state.x)}, ${Math.round(state.y)}`;
  showSamples();
}

// Attention ------------------------------------------------------------------------------------

function nearest(points, x, y) {
  let best = 0, least = Infinity;
  points.forEach(([pointX, pointY], index) => {
    const distance = (pointX - x) ** 2 + (pointY - y) ** 2;
    if (distance < least) [best, least] = [index, distance];
  });
  return best;
}

function showSamples() {
  showLegend();
  for (const { model, parts, note } of panels) {
    parts.samples.replaceChildren();
    note.textContent = "";
    if (state.x === null) continue;
    const samples = model.samples[attentionMenu.value];
    if (samples && samples.points.length) {
      const query = nearest(samples.points, state.x, state.y);
      drawSamples(parts.samples, model, samples, query);
      const [x, y] = samples.points[query].map(Math.round);
      const kind = attentionMenu.value === "encoder" ? "token" : "query";
      note.textContent = `Nearest ${kind} at ${x}, ${y}`;
    }
    drawCross(parts.samples, state.x, state.y);
  }
}

function drawSamples(parent, model, samples, query) {
  const values = new Uint16Array(bytes(samples.values).buffer);
  const size = values.length / samples.points.length;
  const perLevel = size / 3 / model.levels.length;
  const [x, y] = samples.points[query];
  const line = { x1: state.x, y1: state.y, x2: x, y2: y, class: "line", stroke: "#fff" };
  svg(parent, "line", { ...line, stroke: "#11151a", style: "stroke-width: 4px" });
  svg(parent, "line", { ...line, style: "stroke-width: 2px" });
  const long = Math.max(image.width, image.height);
  const found = [];
  for (let index = 0; index < size / 3; index++) {
    const [across, down, weight] = values.subarray(query * size + 3 * index, query * size + 3 * index + 3);
    const place = (value, extent) => (value / 65535 * data.range + data.rangeStart) * extent;
    const level = Math.floor(index / perLevel);
    found.push([place(across, image.width), place(down, image.height), weight / 65535, level]);
  }
  // Light ones last, over the heavy ones.
  for (const [cx, cy, weight, level] of found.sort((first, second) => second[2] - first[2])) {
    const r = long * (.003 + .035 * Math.sqrt(weight));
    svg(parent, "circle", { cx, cy, r, class: "sample", fill: data.levelColors[level % data.levelColors.length] });
  }
}

function drawCross(parent, x, y) {
  const arm = Math.max(image.width, image.height) / 50;
  const cross = svg(parent, "g", { class: "cross", "data-x": x, "data-y": y });
  for (const [color, width] of [["#11151a", 6], ["#ffffff", 3]]) {
    const look = { class: "line", stroke: color, style: `stroke-width: ${width}px` };
    svg(cross, "line", { ...look, x1: x - arm, y1: y, x2: x + arm, y2: y });
    svg(cross, "line", { ...look, x1: x, y1: y - arm, x2: x, y2: y + arm });
  }
}

// Start ----------------------------------------------------------------------------------------

function addLegend(group, color, text) {
  const entry = html(element("legend"), "li", undefined, { "data-group": group });
  const shape = group === "samples" ? "swatch round" : "swatch";
  html(entry, "span", undefined, { class: shape, style: `background: ${color}` });
  entry.append(text);
}

function start() {
  element("models").style.maxWidth = `${900 * panels.length}px`;
  element("title").textContent = `${image.name}, ${image.width} × ${image.height} pixels`;
  document.title = `${image.name}: ${data.models.map((model) => model.name).join(" | ")}`;
  const layers = Math.max(...data.models.map((model) => model.layers.length));
  const levels = data.models.reduce((most, model) => model.levels.length > most.length ? model.levels : most, []);
  html(layerMenu, "option", "not shown", { value: "" });
  for (let layer = 0; layer < layers; layer++) html(layerMenu, "option", `layer ${layer + 1}`, { value: layer });
  html(levelMenu, "option", "all", { value: "" });
  levels.forEach((level, index) => html(levelMenu, "option", `stride ${level.stride}`, { value: index }));
  for (const { name, color } of data.classes) addLegend("classes", color, name);
  for (const { name, color: [red, green, blue] } of data.states) addLegend("tokens", `rgb(${red} ${green} ${blue})`, name);
  levels.forEach((level, index) => addLegend("samples", data.levelColors[index % data.levelColors.length], `sample, stride ${level.stride}`));
  confidence.value = Math.round(100 * data.threshold);
  confidence.addEventListener("input", showDetections);
  layerMenu.addEventListener("change", showTokens);
  levelMenu.addEventListener("change", showTokens);
  attentionMenu.addEventListener("change", showSamples);
  element("controls").addEventListener("submit", (event) => event.preventDefault());
  showDetections();
}

start();
