// Text that others chose, in messages: names of files, what is in them, variables, arguments.
#pragma once

#include <string>
#include <string_view>

namespace fa::system {

/// `text` with everything escaped that is not seen, or could steer a terminal or begin a line:
/// control characters, also those of C1, of format (text direction, spaces of no width, tags) and
/// the separators of lines and paragraphs; and bytes that are not UTF-8.
std::string shown(std::string_view text);
/// The beginning of `shown(text)`, for text from a file, which may be of any length.
std::string shown_beginning(std::string_view text);

}  // namespace fa::system
