// Text of a stranger's file in messages.
#pragma once

#include <string>
#include <string_view>

namespace fa::io {

/// What a message shows of text that comes from a file: its beginning, with everything escaped that
/// is no printable character and could steer a terminal (control characters, also those of C1 and
/// of text direction, and bytes that are not UTF-8).
std::string shown(std::string_view text);

}  // namespace fa::io
