# fa_fmt puts {fmt} inside of what links it, so that nothing that is installed needs libfmt.so.
# fmt/fmt.cpp is written for {fmt} 9. Where another release wants more definitions than it has, {fmt}
# is compiled into each file, header only.
find_package(fmt REQUIRED)
get_target_property(fmt_include fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
try_compile(FA_FMT_ONCE ${PROJECT_BINARY_DIR}/fmt-probe
  SOURCES ${CMAKE_CURRENT_LIST_DIR}/fmt/fmt.cpp ${CMAKE_CURRENT_LIST_DIR}/fmt/probe.cpp
  CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${fmt_include}"
  CXX_STANDARD 20)
if(FA_FMT_ONCE)
  add_library(fa_fmt STATIC cmake/fmt/fmt.cpp)
  target_include_directories(fa_fmt SYSTEM PUBLIC ${fmt_include})
else()
  message(STATUS "fmt ${fmt_VERSION} is compiled into each file that includes it")
  add_library(fa_fmt INTERFACE)
  target_link_libraries(fa_fmt INTERFACE fmt::fmt-header-only)
endif()
