// What AddressSanitizer is told by tests and fuzz drivers. Nothing reads this in other builds.

/// gcc up to 13 puts what needs 64 bytes' alignment anywhere on the stacks that find uses after a return, and then moves it as if
/// it were aligned (gcc's bug 110027): a vector's read there ends the program.
extern "C" const char* __asan_default_options() { return "detect_stack_use_after_return=0"; }
