# fa_keep_order(folder allowed...): makes the target fa_order_of_folder, which fails to build where a
# file of the folder includes a file that is in none of the allowed folders, nor one of the allowed. The
# folder "." is the one whose CMakeLists.txt calls.
function(fa_keep_order folder)
  cmake_path(ABSOLUTE_PATH folder NORMALIZE OUTPUT_VARIABLE root)
  string(REGEX REPLACE "/$" "" root ${root})
  if(folder STREQUAL ".")
    cmake_path(GET root FILENAME folder)
  endif()
  set(stamp ${CMAKE_CURRENT_BINARY_DIR}/order/${folder}.stamp)
  cmake_path(GET stamp PARENT_PATH stamp_folder)
  file(MAKE_DIRECTORY ${stamp_folder})
  file(GLOB_RECURSE files CONFIGURE_DEPENDS ${root}/*)
  add_custom_command(OUTPUT ${stamp}
    COMMAND ${CMAKE_COMMAND} -D ROOT=${root} -D "ALLOWED=${ARGN}" -D STAMP=${stamp}
      -P ${PROJECT_SOURCE_DIR}/cmake/check_order.cmake
    DEPENDS ${files} ${PROJECT_SOURCE_DIR}/cmake/check_order.cmake
    VERBATIM)
  string(MAKE_C_IDENTIFIER fa_order_of_${folder} target)
  add_custom_target(${target} DEPENDS ${stamp})
endfunction()
