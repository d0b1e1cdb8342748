# What `cmake --install` lays down: the library, its public headers, the program, and how CMake and
# pkg-config find them. The tree can be moved: nothing in it is an absolute path.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# By name, so that a missing one stops the installation.
set(fa_licenses README.md Apache-2.0.txt CLI11.txt fmt.txt GCC-exception-3.1.txt GPL-3.0.txt
  nlohmann-json.txt)
list(TRANSFORM fa_licenses PREPEND licenses/)

option(FA_INSTALL_HWY "Install libhwy beside libfa, so that it runs where Highway is missing" ON)

# The same path in the build's folder: changed at the installation, it would be followed by colons,
# and an empty element has the loader look in the current directory.
set_target_properties(fa PROPERTIES INSTALL_RPATH "$ORIGIN" BUILD_WITH_INSTALL_RPATH ON)
fa_link_runtime(${HWY_LINK_LIBRARIES} ${OpenMP_CXX_LIBRARIES})
install(TARGETS fa EXPORT fa LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/fa/attention.hpp include/fa/fa.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/fa)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES ${fa_licenses} DESTINATION ${CMAKE_INSTALL_DOCDIR}/licenses)

if(TARGET fa_cli_installed)
  file(RELATIVE_PATH lib_from_bin /${CMAKE_INSTALL_BINDIR} /${CMAKE_INSTALL_LIBDIR})
  set_target_properties(fa_cli_installed PROPERTIES INSTALL_RPATH "$ORIGIN/${lib_from_bin}")
  install(TARGETS fa_cli_installed RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

if(FA_INSTALL_HWY)
  list(GET HWY_LINK_LIBRARIES 0 hwy)
  fa_install_runtime(${hwy} ${CMAKE_INSTALL_LIBDIR})
endif()

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/fa)
install(EXPORT fa NAMESPACE fa:: FILE faTargets.cmake DESTINATION ${package_dir})
configure_package_config_file(cmake/faConfig.cmake.in ${PROJECT_BINARY_DIR}/faConfig.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/faConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/faConfig.cmake ${PROJECT_BINARY_DIR}/faConfigVersion.cmake
  DESTINATION ${package_dir})

file(RELATIVE_PATH prefix_from_pc /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(cmake/fa.pc.in ${PROJECT_BINARY_DIR}/fa.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/fa.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
