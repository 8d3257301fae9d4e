// Runs a compiled detector without Python:
//
//     detect _cpu.so detector.pt2 HEIGHT WIDTH [IMAGE]
//
// _cpu.so has the kernels (lite_focus_detr/ops), detector.pt2 is a package of AOTInductor
// (docs/export.md), IMAGE a file of HEIGHT x WIDTH pixels of three bytes in the order of
// INPUT.FORMAT, row by row; without one the image is grey. Prints label, score and box
// (x0, y0, x1, y1), in pixels, of the ten best detections.
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

int64_t read_size(const std::string& text) {
  std::size_t used = 0;
  int64_t size = 0;
  try {
    size = std::stoll(text, &used);
  } catch (const std::logic_error&) {
  }
  if (size < 1 || used != text.size()) {
    throw std::runtime_error(text + " is no number of pixels");
  }
  return size;
}

at::Tensor read_image(const std::string& path, int64_t height, int64_t width) {
  std::vector<char> bytes(height * width * 3);
  std::ifstream file(path, std::ios::binary);
  if (!file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) {
    throw std::runtime_error(path + " does not hold so many pixels");
  }
  if (file.peek() != std::ifstream::traits_type::eof()) {
    throw std::runtime_error(path + " holds more than these pixels");
  }
  const at::Tensor pixels = at::from_blob(bytes.data(), {height, width, 3}, at::kByte);
  return pixels.permute({2, 0, 1}).to(at::kFloat).contiguous();
}

void detect(const std::vector<std::string>& arguments) {
  if (arguments.size() < 4) {
    throw std::runtime_error("usage: detect _cpu.so detector.pt2 HEIGHT WIDTH [IMAGE]");
  }
  // The library registers the operators that the package calls.
  if (dlopen(arguments[0].c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw std::runtime_error(dlerror());
  }
  const int64_t height = read_size(arguments[2]);
  const int64_t width = read_size(arguments[3]);
  if (!std::ifstream(arguments[1])) {
    throw std::runtime_error("cannot read " + arguments[1]);
  }
  torch::inductor::AOTIModelPackageLoader detector(arguments[1]);
  const at::Tensor image = arguments.size() > 4 ? read_image(arguments[4], height, width)
                                                : at::full({3, height, width}, 127.0F);
  const std::vector<at::Tensor> found = detector.run({image.unsqueeze(0)});
  const auto boxes = found.at(0).accessor<float, 3>();
  const auto scores = found.at(1).accessor<float, 2>();
  const auto labels = found.at(2).accessor<int64_t, 2>();
  for (int64_t i = 0; i < std::min<int64_t>(scores.size(1), 10); ++i) {
    std::printf("%lld %.6f %.3f %.3f %.3f %.3f\n", static_cast<long long>(labels[0][i]),
                scores[0][i], boxes[0][i][0], boxes[0][i][1], boxes[0][i][2], boxes[0][i][3]);
  }
}

}  // namespace

int main(int count, char** arguments) {
  try {
    detect({arguments + 1, arguments + count});
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what_without_backtrace());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
