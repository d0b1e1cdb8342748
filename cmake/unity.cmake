# fa_unite(TARGET): compiles its sources eight at a time. A fresh build of the library and the program
# then takes 2 minutes of two cores in place of 3, since sources read the same headers; a change takes
# longer to compile. Left apart are sources with options of their own, and with Highway's kernels, which
# include themselves once for each target.
#
# What is in an unnamed namespace must have a name of its own among these sources, and none may lean on
# what another one includes: tools/lint reads each by itself.
option(FA_UNITY "Compile several sources at a time" ON)
function(fa_unite target)
  if(FA_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
  endif()
endfunction()
