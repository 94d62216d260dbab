# What `cmake --install` puts below a prefix for programs in C and C++: the library under its version, the headers, and the
# files by which CMake (find_package(dca), target dca::dca) and pkg-config (dca) find both, wherever the prefix is moved.
include(CMakePackageConfigHelpers)

set_target_properties(dca PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${DCA_ABI})
target_include_directories(dca INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
set(DCA_PACKAGE_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/dca)
install(TARGETS dca EXPORT dca LIBRARY DESTINATION ${DCA_LIBRARY_DESTINATION} COMPONENT sdk)
install(FILES include/dca.h include/dca_text.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT sdk)
install(EXPORT dca NAMESPACE dca:: FILE dca-config.cmake DESTINATION ${DCA_PACKAGE_DESTINATION} COMPONENT sdk)

write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/dca-config-version.cmake VERSION ${PROJECT_VERSION}
  COMPATIBILITY SameMajorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/dca-config-version.cmake DESTINATION ${DCA_PACKAGE_DESTINATION} COMPONENT sdk)

file(RELATIVE_PATH DCA_PREFIX_FROM_PC /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(dca.pc.in dca.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/dca.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT sdk)
