// Headers of a new standard library look at this variable of a new libc. With one of our own,
// hidden and always false, the binary also loads with an old libc.
extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
