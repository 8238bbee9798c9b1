#include "runtime/text/jinja/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "kernels/core/status.h"
#include "runtime/text/jinja/unicode.h"
#include "runtime/text/utf8.h"

namespace spotd::text::jinja {
namespace {

using Kind = Value::Kind;

std::string Hex(char letter, int digits, uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof text, "\\%c%0*x", letter, digits, value);
  return text;
}

// The escape for characters that have a short one, else "".
std::string_view ShortEscape(uint32_t c) {
  switch (c) {
    case '\\':
      return "\\\\";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return "";
  }
}

std::string ReprString(const std::string& text) {
  const bool has_single = text.find('\'') != std::string::npos;
  const char quote = has_single && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (const uint32_t c : Characters(text)) {
    if (c == static_cast<uint32_t>(quote)) {
      out += '\\';
      out += quote;
    } else if (const std::string_view escape = ShortEscape(c); !escape.empty()) {
      out += escape;
    } else if (IsPrintable(c)) {
      AppendUtf8(c, &out);
    } else {
      out += c < 0x100 ? Hex('x', 2, c) : c < 0x10000 ? Hex('u', 4, c) : Hex('U', 8, c);
    }
  }
  return out + quote;
}

std::string JsonString(const std::string& text, bool ensure_ascii) {
  std::string out = "\"";
  for (const uint32_t c : Characters(text)) {
    if (c == '"') {
      out += "\\\"";
    } else if (const std::string_view escape = ShortEscape(c); !escape.empty()) {
      out += escape;
    } else if (c == '\b' || c == '\f') {
      out += c == '\b' ? "\\b" : "\\f";
    } else if (c < 0x20 || (ensure_ascii && c > 0x7E && c < 0x10000)) {
      out += Hex('u', 4, c);
    } else if (ensure_ascii && c >= 0x10000) {  // as a surrogate pair
      out += Hex('u', 4, 0xD800 + ((c - 0x10000) >> 10)) +
             Hex('u', 4, 0xDC00 + ((c - 0x10000) & 0x3FF));
    } else {
      AppendUtf8(c, &out);
    }
  }
  return out + '"';
}

// Appends to a string that must not outgrow the budget.
class Writer {
 public:
  explicit Writer(Budget* budget) : budget_(budget) {}
  absl::Status Put(std::string_view text) {
    SPOTD_RETURN_IF_ERROR(budget_->Spend(text.size() + 1));
    out_ += text;
    return absl::OkStatus();
  }
  std::string Take() { return std::move(out_); }

 private:
  Budget* budget_;
  std::string out_;
};

std::string ScalarText(const Value& value) {
  switch (value.kind()) {
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return value.AsBool() ? "True" : "False";
    case Kind::kInt:
      return std::to_string(value.AsInt());
    case Kind::kFloat:
      return FormatFloat(value.AsFloat());
    case Kind::kString:
      return ReprString(value.AsString());
    case Kind::kUndefined:
      return "Undefined";
    default:
      return Concat("<", value.TypeName(), ">");
  }
}

absl::Status WriteRepr(const Value& value, Writer* out);

absl::Status WriteList(const Value& value, Writer* out) {
  SPOTD_RETURN_IF_ERROR(out->Put(value.IsTuple() ? "(" : "["));
  for (size_t i = 0; i < value.AsList().size(); ++i) {
    if (i > 0) SPOTD_RETURN_IF_ERROR(out->Put(", "));
    SPOTD_RETURN_IF_ERROR(WriteRepr(value.AsList()[i], out));
  }
  if (!value.IsTuple()) return out->Put("]");
  return out->Put(value.AsList().size() == 1 ? ",)" : ")");
}

absl::Status WriteRepr(const Value& value, Writer* out) {
  if (value.Is(Kind::kList)) return WriteList(value, out);
  if (!value.Is(Kind::kDict)) return out->Put(ScalarText(value));
  SPOTD_RETURN_IF_ERROR(out->Put("{"));
  bool first = true;
  for (const auto& [key, item] : value.AsDict()) {
    if (!first) SPOTD_RETURN_IF_ERROR(out->Put(", "));
    first = false;
    SPOTD_RETURN_IF_ERROR(WriteRepr(key, out));
    SPOTD_RETURN_IF_ERROR(out->Put(": "));
    SPOTD_RETURN_IF_ERROR(WriteRepr(item, out));
  }
  return out->Put("}");
}

class JsonWriter {
 public:
  JsonWriter(const JsonOptions& options, Writer* out) : options_(options), out_(*out) {}

  absl::Status Write(const Value& value) {
    switch (value.kind()) {
      case Kind::kNone:
        return out_.Put("null");
      case Kind::kBool:
        return out_.Put(value.AsBool() ? "true" : "false");
      case Kind::kInt:
        return out_.Put(std::to_string(value.AsInt()));
      case Kind::kFloat:
        return out_.Put(JsonFloat(value.AsFloat()));
      case Kind::kString:
        return out_.Put(JsonString(value.AsString(), options_.ensure_ascii));
      case Kind::kList:
        return WriteList(value.AsList());
      case Kind::kDict:
        return WriteDict(value.AsDict());
      default:
        return InvalidArgument("an object of type ", value.TypeName(),
                               " cannot be written as JSON");
    }
  }

 private:
  static std::string JsonFloat(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return FormatFloat(value);
  }

  absl::Status NewLine() {
    if (!options_.indent) return absl::OkStatus();
    SPOTD_RETURN_IF_ERROR(out_.Put("\n"));
    for (int i = 0; i < level_; ++i) SPOTD_RETURN_IF_ERROR(out_.Put(*options_.indent));
    return absl::OkStatus();
  }

  absl::Status WriteList(const std::vector<Value>& items) {
    if (items.empty()) return out_.Put("[]");
    SPOTD_RETURN_IF_ERROR(out_.Put("["));
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) SPOTD_RETURN_IF_ERROR(out_.Put(options_.item_separator));
      SPOTD_RETURN_IF_ERROR(NewLine());
      SPOTD_RETURN_IF_ERROR(Write(items[i]));
    }
    --level_;
    SPOTD_RETURN_IF_ERROR(NewLine());
    return out_.Put("]");
  }

  absl::Status WriteKey(const Value& key) {
    if (key.Is(Kind::kString)) return Write(key);
    SPOTD_RETURN_IF_ERROR(out_.Put("\""));  // numbers, booleans and null in quotes
    SPOTD_RETURN_IF_ERROR(Write(key));
    return out_.Put("\"");
  }

  absl::Status WriteDict(std::vector<std::pair<Value, Value>> entries) {
    if (entries.empty()) return out_.Put("{}");
    if (options_.sort_keys) {
      for (const auto& [key, value] : entries) {
        if (!key.Is(Kind::kString)) return InvalidArgument("only string keys can be sorted");
      }
      std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
        return a.first.AsString() < b.first.AsString();
      });
    }
    SPOTD_RETURN_IF_ERROR(out_.Put("{"));
    ++level_;
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) SPOTD_RETURN_IF_ERROR(out_.Put(options_.item_separator));
      SPOTD_RETURN_IF_ERROR(NewLine());
      SPOTD_RETURN_IF_ERROR(WriteKey(entries[i].first));
      SPOTD_RETURN_IF_ERROR(out_.Put(options_.key_separator));
      SPOTD_RETURN_IF_ERROR(Write(entries[i].second));
    }
    --level_;
    SPOTD_RETURN_IF_ERROR(NewLine());
    return out_.Put("}");
  }

  const JsonOptions& options_;
  Writer& out_;
  int level_ = 0;
};

}  // namespace

std::string FormatFloat(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char text[64];
  const double magnitude = std::fabs(value);
  const bool plain = magnitude == 0 || (magnitude >= 1e-4 && magnitude < 1e16);
  const auto format = plain ? std::chars_format::fixed : std::chars_format::scientific;
  const auto result = std::to_chars(text, text + sizeof text, value, format);
  std::string out(text, result.ptr);
  if (plain && out.find('.') == std::string::npos) out += ".0";
  return out;
}

absl::StatusOr<std::string> Str(const Value& value, Budget* budget) {
  if (value.Is(Kind::kUndefined)) return std::string();
  if (value.Is(Kind::kString)) {
    SPOTD_RETURN_IF_ERROR(budget->Spend(value.AsString().size()));
    return value.AsString();
  }
  Writer out(budget);
  SPOTD_RETURN_IF_ERROR(WriteRepr(value, &out));
  return out.Take();
}

absl::StatusOr<std::string> Json(const Value& value, const JsonOptions& options, Budget* budget) {
  Writer out(budget);
  SPOTD_RETURN_IF_ERROR(JsonWriter(options, &out).Write(value));
  return out.Take();
}

}  // namespace spotd::text::jinja
