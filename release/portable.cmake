# A CMake toolchain for libraries that load wherever glibc 2.28 or newer is: linked against its symbols
# (glibc_stubs.py made them in DCA_STUBS), and with the C++ library inside.
#
#   DCA_TARGET   x86_64 or aarch64
#   DCA_STUBS    the folder that glibc_stubs.py filled for it
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${DCA_TARGET})
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES DCA_TARGET DCA_STUBS)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)  # no program can be linked to the stubs

if(NOT CMAKE_HOST_SYSTEM_PROCESSOR STREQUAL DCA_TARGET)
  set(CMAKE_CXX_COMPILER ${DCA_TARGET}-linux-gnu-g++)
endif()

# Before the system's own folders, so -lc and -lm are these. What 2.28 had in libraries of their own is named, used or
# not: libstdc++.a comes behind them, and needs them.
set(DCA_LINK "-L${DCA_STUBS} -static-libstdc++ -Wl,-z,defs -Wl,--gc-sections -Wl,--exclude-libs,ALL -s ${DCA_STUBS}/glibc_compat.o")
set(CMAKE_SHARED_LINKER_FLAGS_INIT "${DCA_LINK}")
set(CMAKE_MODULE_LINKER_FLAGS_INIT "${DCA_LINK}")
file(GLOB DCA_LOADER "${DCA_STUBS}/ld-linux-*.so.*")
set(CMAKE_CXX_STANDARD_LIBRARIES "-Wl,--push-state,--no-as-needed -lpthread -ldl ${DCA_LOADER} -Wl,--pop-state")
set(CMAKE_C_STANDARD_LIBRARIES "${CMAKE_CXX_STANDARD_LIBRARIES}")
