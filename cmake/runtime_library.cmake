# fa_runtime(FILE REAL NAME): the file that links lead to, and the name by which the loader asks for
# it (libhwy.so.1).
function(fa_runtime file real_file name)
  file(REAL_PATH ${file} real)
  if(NOT real MATCHES "/(lib[a-z]+\\.so\\.[0-9]+)[^/]*$")
    message(FATAL_ERROR "${real} is no shared library with a version in its name")
  endif()
  set(${real_file} ${real} PARENT_SCOPE)
  set(${name} ${CMAKE_MATCH_1} PARENT_SCOPE)
endfunction()

# fa_install_runtime(FILE DESTINATION): puts a shared library that libfa needs beside it.
function(fa_install_runtime file destination)
  fa_runtime(${file} real name)
  install(FILES ${real} DESTINATION ${destination} RENAME ${name} ${ARGN})
endfunction()

# fa_link_runtime(FILES...): links to shared libraries that lie where the loader does not look, beside
# the build's libfa.
function(fa_link_runtime)
  foreach(file IN LISTS ARGN)
    cmake_path(GET file PARENT_PATH folder)
    if(file MATCHES "^/.*\\.so" AND NOT folder IN_LIST CMAKE_CXX_IMPLICIT_LINK_DIRECTORIES)
      fa_runtime(${file} real name)
      file(CREATE_LINK ${real} ${CMAKE_LIBRARY_OUTPUT_DIRECTORY}/${name} SYMBOLIC)
    endif()
  endforeach()
endfunction()
