# fa_install_runtime(FILE DESTINATION): puts a shared library that libfa needs beside it, under the
# name that the loader asks for (libhwy.so.1, whatever links lead to it).
function(fa_install_runtime file destination)
  file(REAL_PATH ${file} file)
  if(NOT file MATCHES "/(lib[a-z]+\\.so\\.[0-9]+)[^/]*$")
    message(FATAL_ERROR "${file} is no shared library with a version in its name")
  endif()
  install(FILES ${file} DESTINATION ${destination} RENAME ${CMAKE_MATCH_1} ${ARGN})
endfunction()
