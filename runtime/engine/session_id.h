// Names of sessions.
#pragma once

#include <string>

namespace spotd::engine {

// 16 hexadecimal digits, 64 random bits: not to be guessed, and unique for all practical purposes.
// Thread-safe; throws what std::random_device throws.
std::string NewSessionId();

}  // namespace spotd::engine
