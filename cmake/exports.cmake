# libfa.so shows its own functions only: no instantiation of a standard template leaves it, which
# another library in the process could bind to. FA_0, as the soname, is what tells them from those of
# another libfa in the same process.
target_link_options(fa PRIVATE LINKER:--version-script=${PROJECT_SOURCE_DIR}/cmake/exports.map)
set_property(TARGET fa APPEND PROPERTY LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/exports.map)
