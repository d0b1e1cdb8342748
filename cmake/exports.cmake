# libfa.so shows its own functions only: no instantiation of a standard template leaves it, which
# another library in the process could bind to.
target_link_options(fa PRIVATE LINKER:--version-script=${PROJECT_SOURCE_DIR}/cmake/exports.map)
set_property(TARGET fa APPEND PROPERTY LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/exports.map)
