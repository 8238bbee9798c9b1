#include "tools/spot_eval/retrieval_tasks.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "kernels/core/status.h"

namespace spotd::eval {
namespace {

using tools::Insert;
using tools::InsertInOrder;
using tools::Insertion;
using tools::Pick;

constexpr std::array<std::pair<const char*, TaskKind>, 5> kNames = {
    {{"single", TaskKind::kNeedleSingle},
     {"multi-key", TaskKind::kNeedleMultiKey},
     {"multi-value", TaskKind::kNeedleMultiValue},
     {"track", TaskKind::kTrack},
     {"qa", TaskKind::kQa}}};

constexpr int kOtherKeys = 3;  // multi-key: lines that are not asked for
constexpr int kValues = 3;     // multi-value
constexpr int kHops = 2;       // track: assignments after the first
constexpr int kPeopleAsides = 3;

const std::vector<std::string> kWords = {
    "apple",  "bridge", "candle",  "dragon",  "engine",  "feather", "garden",  "hammer",
    "island", "jacket", "kitchen", "lantern", "machine", "needle",  "orchard", "pencil",
    "rabbit", "saddle", "temple",  "violin",  "window",  "yellow",  "zebra",   "anchor"};
const std::vector<std::string> kFirstNames = {"Anna",  "Peter", "Maria",  "Thomas",
                                              "Laura", "David", "Sophie", "Martin"};
const std::vector<std::string> kLastNames = {"Keller", "Brown",  "Fisher", "Wagner",
                                             "Stone",  "Miller", "Taylor", "Cook"};
const std::vector<std::string> kJobs = {"repairs clocks", "teaches history", "builds boats",
                                        "studies birds",  "writes songs",    "sells maps"};
const std::vector<std::string> kCities = {"Lisbon", "Vienna", "Oslo",   "Madrid", "Dublin",
                                          "Prague", "Athens", "Warsaw", "Rome",   "Helsinki"};

// `count` different members of `words`, in random order.
std::vector<std::string> Draw(Random& random, const std::vector<std::string>& words, size_t count) {
  std::vector<std::string> rest = words;
  std::vector<std::string> drawn;
  while (drawn.size() < count) {
    const size_t i = Pick(random, rest.size());
    drawn.push_back(rest[i]);
    rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return drawn;
}

std::string Number(Random& random, int digits) {
  std::string number(1, static_cast<char>('1' + Pick(random, 9)));
  while (number.size() < static_cast<size_t>(digits)) {
    number += static_cast<char>('0' + Pick(random, 10));
  }
  return number;
}

double AnyDepth(Random& random) {
  return static_cast<double>(Pick(random, 1001)) / 1000.0;
}

std::string Upper(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

std::string Lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

std::string Needle(const std::string& word, const std::string& number) {
  return "The special magic number for " + word + " is " + number + ".";
}

std::string Line(const std::string& text) {
  return "\n" + text + "\n";
}

Question MakeNeedle(const TaskShape& shape, Random& random, std::vector<std::string> pieces) {
  const bool many = shape.kind == TaskKind::kNeedleMultiValue;
  const std::vector<std::string> words = Draw(random, kWords, 1 + kOtherKeys);
  Question question;
  if (shape.kind == TaskKind::kNeedleMultiKey) {
    for (int i = 0; i < kOtherKeys; ++i) {
      const double depth = AnyDepth(random);
      Insert({depth, Line(Needle(words[static_cast<size_t>(1 + i)], Number(random, 6)))}, &pieces);
    }
  }
  for (int i = 0; i < (many ? kValues : 1); ++i) {
    const std::string number = Number(random, 6);
    const std::string needle = Needle(words[0], number);
    Insert({i == 0 ? shape.depth : AnyDepth(random), Line(needle)}, &pieces);
    question.answers.push_back(number);
    if (!many) question.fact = needle;
  }
  question.instruction =
      "Some special magic numbers are hidden in the following text. Memorize them. I will ask you "
      "about them afterwards.\n\n";
  question.question =
      many ? "\n\nWhat are all the special magic numbers for " + words[0] + " in the text above?"
           : "\n\nWhat is the special magic number for " + words[0] + " in the text above?";
  question.answer_start = many ? "The special magic numbers for " + words[0] + " are"
                               : "The special magic number for " + words[0] + " is";
  question.document = std::move(pieces);
  return question;
}

Question MakeTrack(Random& random, std::vector<std::string> pieces) {
  const std::vector<std::string> names = Draw(random, kWords, 2 * (1 + kHops));
  Question question;
  // Two chains; the second is there to mislead. A chain's lines stand in their order.
  for (int chain = 0; chain < 2; ++chain) {
    const std::string number = Number(random, 5);
    std::array<double, 1 + kHops> depths;
    for (double& depth : depths) depth = AnyDepth(random);
    std::sort(depths.begin(), depths.end());
    std::vector<Insertion> lines;
    std::string value = number;
    for (size_t hop = 0; hop < depths.size(); ++hop) {
      const std::string name = Upper(names[static_cast<size_t>(chain) * depths.size() + hop]);
      lines.push_back({depths[hop], "\nVAR " + name + " = " + value + "\n"});
      if (chain == 0) question.answers.push_back(name);
      value = "VAR " + name;
    }
    InsertInOrder(lines, &pieces);
    if (chain > 0) continue;
    question.question = "\n\nFind all variables that have the value " + number + " in the text.";
    question.answer_start = "The variables that have the value " + number + " are: VAR";
  }
  question.instruction =
      "Memorize the assignments of variables that are hidden in the following text.\n\n";
  question.document = std::move(pieces);
  return question;
}

Question MakeQa(Random& random, std::vector<std::string> pieces) {
  constexpr size_t kPeople = 1 + kPeopleAsides;
  const auto first = Draw(random, kFirstNames, kPeople);
  const auto last = Draw(random, kLastNames, kPeople);
  const auto jobs = Draw(random, kJobs, kPeople);
  const auto cities = Draw(random, kCities, kPeople);
  Question question;
  for (size_t i = 0; i < kPeople; ++i) {
    const double depth = AnyDepth(random);
    const std::string fact =
        first[i] + " " + last[i] + ", who " + jobs[i] + ", lives in " + cities[i] + ".";
    Insert({depth, Line(fact)}, &pieces);
    if (i == 0) question.fact = fact;
  }
  question.instruction = "Read the following text and answer the question after it.\n\n";
  question.document = std::move(pieces);
  question.question = "\n\nIn which city does " + first[0] + " " + last[0] + " live?";
  question.answer_start = first[0] + " " + last[0] + " lives in";
  question.answers = {cities[0]};
  return question;
}

bool IsWordCharacter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0;
}

bool ContainsWord(const std::string& text, const std::string& word) {
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    const size_t end = at + word.size();
    const bool starts = at == 0 || !IsWordCharacter(text[at - 1]);
    if (starts && (end == text.size() || !IsWordCharacter(text[end]))) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<TaskKind> ParseTaskKind(const std::string& name) {
  for (const auto& [known, kind] : kNames) {
    if (name == known) return kind;
  }
  return InvalidArgument("--tasks: '", name,
                         "' is not single, multi-key, multi-value, track or qa");
}

const char* TaskName(TaskKind kind) {
  return kNames[static_cast<size_t>(kind)].first;
}

Question MakeQuestion(const TaskShape& shape, const Haystack& haystack, Random& random) {
  std::vector<std::string> pieces = haystack.Cut(random, shape.document_tokens);
  switch (shape.kind) {
    case TaskKind::kTrack:
      return MakeTrack(random, std::move(pieces));
    case TaskKind::kQa:
      return MakeQa(random, std::move(pieces));
    case TaskKind::kNeedleSingle:
    case TaskKind::kNeedleMultiKey:
    case TaskKind::kNeedleMultiValue:
      break;
  }
  return MakeNeedle(shape, random, std::move(pieces));
}

double Score(const Question& question, const std::string& reply) {
  const std::string text = Lower(reply);
  double found = 0;
  for (const std::string& answer : question.answers) {
    found += ContainsWord(text, Lower(answer)) ? 1 : 0;
  }
  return found / static_cast<double>(question.answers.size());
}

}  // namespace spotd::eval
