#include "tools/spot_distill/question_documents.h"

#include <array>
#include <string>
#include <utility>

#include "kernels/core/status.h"
#include "tools/common/chat_prompt.h"
#include "tools/common/haystack.h"

namespace spotd::distill {
namespace {

using tools::Insert;
using tools::Pick;
using tools::Random;

constexpr int32_t kRoom = 400;  // tokens for facts, question, template and answer
constexpr int32_t kLeastText = 64;
constexpr size_t kKinds = 3;
constexpr size_t kAsides = 3;  // facts of the same form that are not asked for

const std::vector<std::string> kPeople = {
    "Ingrid", "Bashir", "Carmen", "Dmitri", "Esther", "Farid", "Greta",   "Hiro",
    "Imelda", "Jonas",  "Katya",  "Luis",   "Miriam", "Nadir", "Ottilie", "Pavel"};
const std::vector<std::string> kShops = {"Northwind", "Bluebell", "Quarry Lane", "Saltmarsh",
                                         "Old Mill",  "Harrow",   "Pinecrest",   "Kestrel"};
const std::vector<std::string> kAnimals = {"donkey", "parrot", "horse", "goat",
                                           "hound",  "mule",   "tabby", "pony"};
const std::vector<std::string> kPetNames = {"Biscuit", "Comet", "Domino", "Ember",  "Fable",
                                            "Ginger",  "Hazel", "Nimbus", "Pepper", "Rusty"};

// One question with its lines; answers[0] is what the reply goes on with after answer_start.
struct Task {
  std::vector<std::string> lines;  // the asked ones first
  size_t asked = 1;                // how many of them are
  tools::Question question;
};

std::string Number(Random& random) {
  return std::to_string(10000 + Pick(random, 90000));
}

// `count` different members of `words`.
std::vector<std::string> Draw(Random& random, std::vector<std::string> words, size_t count) {
  for (size_t i = 0; i < count; ++i) std::swap(words[i], words[i + Pick(random, words.size() - i)]);
  words.resize(count);
  return words;
}

Task NumberTask(Random& random) {
  Task task;
  const auto people = Draw(random, kPeople, 1 + kAsides);
  for (const std::string& person : people) {
    const std::string number = Number(random);
    task.lines.push_back("The locker of " + person + " opens with " + number + ".\n");
    if (task.lines.size() == 1) task.question.answers = {" " + number + "."};
  }
  task.question.question = "\n\nWhich number opens the locker of " + people[0] + "?";
  task.question.answer_start = "The locker of " + people[0] + " opens with";
  return task;
}

Task ListTask(Random& random) {
  Task task;
  task.asked = 3;
  const auto shops = Draw(random, kShops, 2);
  std::array<std::string, 3> numbers;
  for (std::string& number : numbers) {
    number = Number(random);
    task.lines.push_back("Order " + number + " was shipped to " + shops[0] + ".\n");
  }
  for (size_t i = 0; i < kAsides; ++i) {
    task.lines.push_back("Order " + Number(random) + " was shipped to " + shops[1] + ".\n");
  }
  task.question.question = "\n\nWhich three orders were shipped to " + shops[0] + "?";
  task.question.answer_start = "The orders shipped to " + shops[0] + " are";
  task.question.answers = {" " + numbers[0] + ", " + numbers[1] + " and " + numbers[2] + "."};
  return task;
}

Task NameTask(Random& random) {
  Task task;
  const auto people = Draw(random, kPeople, 1 + kAsides);
  const auto names = Draw(random, kPetNames, 1 + kAsides);
  const std::string animal = kAnimals[Pick(random, kAnimals.size())];
  for (size_t i = 0; i < people.size(); ++i) {
    task.lines.push_back("The " + animal + " that " + people[i] + " keeps is called " + names[i] +
                         ".\n");
  }
  task.question.question = "\n\nWhat is the " + animal + " of " + people[0] + " called?";
  task.question.answer_start = "The " + animal + " that " + people[0] + " keeps is called";
  task.question.answers = {" " + names[0] + "."};
  return task;
}

Task TaskOf(size_t kind, Random& random) {
  return kind == 0 ? NumberTask(random) : kind == 1 ? ListTask(random) : NameTask(random);
}

absl::StatusOr<QuestionDocument> Written(const tools::ChatPrompt& prompt,
                                         const text::Tokenizer& tokenizer,
                                         const tools::Haystack& haystack, int32_t text_tokens,
                                         double depth, size_t kind, Random& random) {
  Task task = TaskOf(kind, random);
  std::vector<std::string> pieces = haystack.Cut(random, text_tokens);
  for (size_t i = 1; i < task.lines.size(); ++i) {
    // Lines that belong to the asked one stand after it, in their order; the others anywhere.
    const double part = static_cast<double>(Pick(random, 1001)) / 1000.0;
    Insert(
        {i < task.asked ? depth + (1 - depth) * static_cast<double>(i) / 3 : part, task.lines[i]},
        &pieces);
  }
  Insert({depth, task.lines[0]}, &pieces);
  task.question.instruction = "Here is a text. A question about it follows.\n\n";
  task.question.document = std::move(pieces);
  const std::string answer = task.question.answers[0];
  SPOTD_ASSIGN_OR_RETURN(const tools::PromptTokens tokens, prompt.Encode(task.question));
  SPOTD_ASSIGN_OR_RETURN(const auto reply, tokenizer.Encode(answer, {}));
  QuestionDocument document;
  document.answer_tokens = static_cast<int32_t>(reply.size());
  document.tokens = tokens.document;
  document.tokens.insert(document.tokens.end(), tokens.question.begin(), tokens.question.end());
  document.tokens.insert(document.tokens.end(), reply.begin(), reply.end());
  return document;
}

}  // namespace

absl::StatusOr<std::vector<QuestionDocument>> MakeQuestionDocuments(
    const model::ModelSource& source, const text::Tokenizer& tokenizer,
    std::span<const std::span<const int32_t>> documents, int32_t length, int32_t count,
    uint64_t seed) {
  std::vector<QuestionDocument> made;
  if (count == 0) return made;
  if (length < kRoom + kLeastText) {
    return InvalidArgument("--questions: a context of ", length, " tokens has no room for them; ",
                           kRoom + kLeastText, " are needed");
  }
  std::vector<std::string> texts;
  for (const auto& document : documents) {
    SPOTD_ASSIGN_OR_RETURN(texts.emplace_back(), tokenizer.Decode(document));
  }
  const auto count_tokens = [&](const std::string& text) {
    const auto tokens = tokenizer.Encode(text, {});
    return tokens.ok() ? static_cast<int32_t>(tokens->size()) : length;
  };
  SPOTD_ASSIGN_OR_RETURN(const tools::Haystack haystack,
                         tools::Haystack::FromTexts(texts, count_tokens));
  SPOTD_ASSIGN_OR_RETURN(const tools::ChatPrompt prompt,
                         tools::ChatPrompt::Create(source, &tokenizer));
  Random random(seed);
  for (int32_t i = 0; i < count; ++i) {
    const double depth = (i + 0.5) / count;
    // Lines counted one by one and together can differ by a few tokens in thousands.
    int32_t text_tokens = length - kRoom;
    QuestionDocument document;
    do {
      SPOTD_ASSIGN_OR_RETURN(document, Written(prompt, tokenizer, haystack, text_tokens, depth,
                                               static_cast<size_t>(i) % kKinds, random));
      text_tokens -= kRoom;
    } while (document.tokens.size() > static_cast<size_t>(length) && text_tokens > 0);
    if (document.tokens.size() > static_cast<size_t>(length)) {
      return InvalidArgument("--questions: the corpus has no short enough lines");
    }
    if (document.tokens.size() < static_cast<size_t>(length - kRoom) / 2) {
      return InvalidArgument("--questions: the corpus's lines are too long to fill ", length,
                             " tokens: a text came to ", document.tokens.size());
    }
    made.push_back(std::move(document));
  }
  return made;
}

}  // namespace spotd::distill
