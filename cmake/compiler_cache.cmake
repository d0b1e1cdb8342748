# A compiler cache, where there is one: the wheel is built of the same objects as build/, and so is
# most of another branch. Of precompiled headers it must believe that they have no __TIME__.
find_program(FA_COMPILER_CACHE ccache)
if(FA_COMPILER_CACHE AND PROJECT_IS_TOP_LEVEL)
  foreach(language C CXX)
    if(NOT DEFINED CMAKE_${language}_COMPILER_LAUNCHER)
      set(CMAKE_${language}_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
        CCACHE_SLOPPINESS=pch_defines,time_macros ${FA_COMPILER_CACHE})
    endif()
  endforeach()
endif()
