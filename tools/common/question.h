// A question about a long document, before it is put into the words of a chat template.
#pragma once

#include <string>
#include <vector>

namespace spotd::tools {

struct Question {
  std::string instruction;            // stands before the document
  std::vector<std::string> document;  // pieces, facts among them
  std::string question;               // after the document
  std::string answer_start;           // first words of the reply, given to the model
  std::vector<std::string> answers;   // what a perfect reply contains
  std::string fact;                   // the line of `document` that holds the answer, if one does
};

}  // namespace spotd::tools
