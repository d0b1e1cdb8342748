# A compiler cache, where there is one: the wheel is built of the same objects as build/, and so is
# most of another branch.
find_program(FA_COMPILER_CACHE ccache)
if(FA_COMPILER_CACHE AND PROJECT_IS_TOP_LEVEL)
  foreach(language C CXX)
    if(NOT DEFINED CMAKE_${language}_COMPILER_LAUNCHER)
      set(CMAKE_${language}_COMPILER_LAUNCHER ${FA_COMPILER_CACHE})
    endif()
  endforeach()
endif()
