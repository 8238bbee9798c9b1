#include "server/log.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <ctime>

#include "nlohmann/json.hpp"

namespace spotd::server {
namespace {

std::atomic<LogFormat> log_format{LogFormat::kText};
std::atomic<LogLevel> least_level{LogLevel::kInfo};

std::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      break;
  }
  return "error";
}

bool NeedsQuotes(std::string_view value) {
  for (unsigned char c : value) {
    if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c >= 0x7f) return true;
  }
  return false;
}

void AppendQuoted(std::string_view value, std::string* out) {
  constexpr char kHex[] = "0123456789abcdef";
  *out += '"';
  for (unsigned char c : value) {
    if (c == '"' || c == '\\') {
      *out += '\\';
      *out += static_cast<char>(c);
    } else if (c < ' ' || c == 0x7f) {
      *out += "\\x";
      *out += kHex[c >> 4];
      *out += kHex[c & 15];
    } else {
      *out += static_cast<char>(c);
    }
  }
  *out += '"';
}

std::string Timestamp() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  char date[32];
  std::strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &utc);
  char out[48];
  std::snprintf(out, sizeof(out), "%s.%03ldZ", date, now.tv_nsec / 1000000);
  return out;
}

std::string FormatJson(std::string_view timestamp, LogLevel level, std::string_view message,
                       std::initializer_list<LogField> fields) {
  nlohmann::ordered_json line = {{"ts", timestamp}, {"level", LevelName(level)}, {"msg", message}};
  for (const auto& [key, value] : fields) {
    if (!value.empty()) line[std::string(key)] = value;
  }
  return line.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
}

std::string FormatText(std::string_view timestamp, LogLevel level, std::string_view message,
                       std::initializer_list<LogField> fields) {
  std::string line = "ts=";
  line += timestamp;
  line += " level=";
  line += LevelName(level);
  line += " msg=";
  AppendQuoted(message, &line);
  for (const auto& [key, value] : fields) {
    if (value.empty()) continue;
    line += ' ';
    line += key;
    line += '=';
    if (NeedsQuotes(value)) {
      AppendQuoted(value, &line);
    } else {
      line += value;
    }
  }
  return line;
}

}  // namespace

void ConfigureLog(LogFormat format, LogLevel least) {
  log_format.store(format);
  least_level.store(least);
}

LogFormat ParseLogFormat(std::string_view name) {
  if (name == "auto") return isatty(STDERR_FILENO) == 1 ? LogFormat::kText : LogFormat::kJson;
  return name == "json" ? LogFormat::kJson : LogFormat::kText;
}

LogLevel ParseLogLevel(std::string_view name) {
  if (name == "error") return LogLevel::kError;
  return name == "warning" ? LogLevel::kWarning : LogLevel::kInfo;
}

std::string FormatLogLine(LogFormat format, std::string_view timestamp, LogLevel level,
                          std::string_view message, std::initializer_list<LogField> fields) {
  return format == LogFormat::kJson ? FormatJson(timestamp, level, message, fields)
                                    : FormatText(timestamp, level, message, fields);
}

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  if (level < least_level.load()) return;
  const std::string line =
      FormatLogLine(log_format.load(), Timestamp(), level, message, fields) + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace spotd::server
