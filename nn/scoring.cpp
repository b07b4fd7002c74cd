// A recursive descent over the text without its blanks, in which formulas as books print them, x³/√N, are spelled as
// x^3/sqrt(N). One method per piece of the grammar:
//
// clang-format off
//   scoring    = "softmax" | "sigmoid" [ "(x" { sign number | "-log(N)" } ")" ] scale | "relu" [ "(x)" ] scale | polynomial
//   polynomial = ( terms | "(" terms ")" { divisor } ) [ "/sum(" terms ")" ]
//   terms      = [ sign ] term { sign term }
//   term       = ( number | [ number [ "*" ] ] "x" [ "^" degree ] ) { divisor }
//   scale      = [ "/" ( "N" | "n" | "sqrt(N)" | "sqrt(n)" ) ]
//   divisor    = "/" ( number | "sqrt(" number ")" | "sqrt" number | "N" | "n" | "sqrt(N)" | "sqrt(n)" )
// clang-format on
#include "nn/scoring.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <vector>

#include "core/error.h"
#include "core/suggest.h"

namespace norma::nn {
namespace {

using Scale = Scoring::Scale;
using Kind = Scoring::Kind;

const std::vector<std::string> functions = {"softmax", "sigmoid", "relu", "x"};
const std::vector<std::string> forms = {
    "softmax",       "x^3/sqrt(N)",    "x^3/sqrt(n)", "x^3/14", "x^3/N",  "x^3/n",
    "x^2/sum(x^2)",  "x/sqrt(N)",      "x/sqrt(n)",   "x/14",   "x/N",    "x/n",
    "0.5x + x^3/14", "sigmoid",        "relu",        "relu/N", "relu/n", "x^3",
    "sigmoid/N",     "sigmoid(x - 2)", "x",           "x^2",    "x^4",    "sigmoid(x - log(N))"};

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/// Bytes of the character that begins at `at`; 1 where it is no UTF-8.
std::size_t length_of_character(std::string_view text, std::size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const std::size_t whole = lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  for (std::size_t i = 1; i < whole; ++i)
    if (at + i >= text.size() || (static_cast<unsigned char>(text[at + i]) & 0xc0) != 0x80) return 1;
  return whole;
}

/// The digit that is raised, or none.
std::optional<char> raised_digit(std::string_view character) {
  constexpr const char* raised[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  for (int i = 0; i < 10; ++i)
    if (character == raised[i]) return static_cast<char>('0' + i);
  return {};
}

bool parses(std::string_view text) {
  try {
    parse_scoring(text);
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::string scale_text(Scale scale) {
  switch (scale) {
    case Scale::one: return "";
    case Scale::inverse_sqrt_keys: return "/sqrt(N)";
    case Scale::inverse_keys: return "/N";
    case Scale::inverse_sqrt_valid_keys: return "/sqrt(n)";
    case Scale::inverse_valid_keys: return "/n";
  }
  return "";
}

class Parser {
 public:
  explicit Parser(std::string_view original) : original_(original) {
    if (original.size() > 1000) fail("attention: the text has {} characters, 1000 is the most", original.size());
    std::string_view before;
    for (std::size_t i = 0, size = 0; i < original.size(); i += size) {
      size = length_of_character(original, i);
      const std::string_view c = original.substr(i, size);
      if (is_blank(c[0])) continue;
      spell(before, c, {i, size});
      before = c;
    }
  }

  Scoring run() {
    if (text_.empty()) wrong("nothing is given");
    Scoring s;
    const std::string head = word();
    if (head == "softmax") {
      at_ += head.size();
      if (at_ < text_.size() && std::string_view("(/^*").find(peek()) != std::string_view::npos)
        impossible("softmax is of the scores as they are, without argument, scale or power");
    } else if (head == "sigmoid") {
      at_ += head.size();
      s.kind = Kind::sigmoid;
      if (take("(")) sigmoid_argument(s);
      no_power(head);
      scale_only(s);
    } else if (head == "relu") {
      at_ += head.size();
      s.kind = Kind::relu;
      if (take("(") && !take("x)")) impossible("relu takes x alone");
      no_power(head);
      scale_only(s);
      no_power(head);
    } else if (head.empty() || head == "x") {
      polynomial(s);
    } else {
      unknown(head);
    }
    if (at_ < text_.size()) unexpected();
    return s;
  }

 private:
  struct Origin {
    std::size_t at, size;  // bytes of the original
  };
  void put(std::string_view text, Origin from) {
    text_ += text;
    origin_.resize(text_.size(), from);
  }
  /// One character, which follows `before`, as the grammar has it.
  void spell(std::string_view before, std::string_view c, Origin from) {
    if (const auto digit = raised_digit(c)) {
      if (!raised_digit(before)) put("^", from);
      put({&*digit, 1}, from);
    } else if (c == "√") {
      put("sqrt", from);
    } else if (before == "√" && (c == "N" || c == "n")) {
      put("(", from), put(c, from), put(")", from);
    } else if (c == "·" || c == "⋅" || c == "×") {
      put("*", from);
    } else {
      put(c == "−" ? "-" : c, from);
    }
  }

  // ---- the grammar ----
  void no_power(const std::string& function) {
    if (peek() == '^') impossible(fmt::format("{} has no powers", function));
  }

  void sigmoid_argument(Scoring& s) {
    if (!take("x")) impossible("sigmoid takes x, moved by numbers or by log(N), as in sigmoid(x - 2)");
    while (!take(")")) {
      const bool minus = take("-");
      if (!minus && !take("+")) unexpected();
      if (minus && !s.bias_minus_log_keys && take("log(N)"))
        s.bias_minus_log_keys = true;
      else
        s.bias += (minus ? -1 : 1) * number();
    }
    if (!std::isfinite(s.bias)) fail_text("the number added to x is too large");
  }

  void scale_only(Scoring& s) {
    if (!take("/")) return;
    if (constant_divisor())
      fail_text(
          fmt::format("{} is divided by N, n, sqrt(N) or sqrt(n) alone; a constant divides polynomials, as in x^3/14",
                      s.kind == Kind::relu ? "relu" : "sigmoid"));
    s.scale = keys();
  }

  void polynomial(Scoring& s) {
    s.kind = Kind::polynomial;
    int count = 0;
    if (take("(")) {
      terms(s);
      expect(")");
      count = 1;
      Scale outer = Scale::one;
      for (double d : divisors(outer))
        for (double& c : s.coefficient) c /= d;
      if (outer != Scale::one && s.scale != Scale::one) fail_text("the terms are scaled twice");
      if (outer != Scale::one) s.scale = outer;
    } else {
      count = terms(s);
    }
    for (double c : s.coefficient)
      if (!std::isfinite(c)) fail_text("a coefficient is too large");
    if (s.degree() == 0) fail_text("there is no term in x");
    if (take("/sum(")) normalized(s, count);
  }

  void normalized(Scoring& s, int count) {
    if (count > 1) fail_text("the polynomial before /sum needs parentheses");
    Scoring again;
    terms(again);
    expect(")");
    for (int p = 1; p <= Scoring::max_degree; p += 2)
      if (s.coefficient[static_cast<std::size_t>(p)] != 0) fail_text("only even powers can be normalised");
    for (double c : s.coefficient)
      if (c < 0) fail_text("a normalised polynomial must not be negative, its row sums could vanish");
    if (again.coefficient != s.coefficient) fail_text("the sum must run over the same polynomial");
    if (s.scale != Scale::one || again.scale != Scale::one) fail_text("a normalised row takes no scale");
    s.normalize = true;
  }

  /// Adds the terms to the coefficients; returns how many there were.
  int terms(Scoring& s) {
    int count = 0;
    for (;; ++count) {
      const bool minus = take("-");
      if (!minus && !take("+") && count > 0) return count;
      const Scale scale = term(s, minus ? -1 : 1);
      if (count > 0 && scale != s.scale)
        fail_text(
            fmt::format("every term must have the same scale; write the polynomial in parentheses, (0.5x + x^3){}",
                        scale_text(scale != Scale::one ? scale : s.scale)));
      s.scale = scale;
    }
  }

  Scale term(Scoring& s, double sign) {
    if (peek() == '|') impossible("there is no |x|; of an even power the sign is gone, as in x^2");
    const bool has_number = starts_number();
    double c = sign * (has_number ? number() : 1);
    std::size_t power = 0;
    const bool star = has_number && take("*");
    const std::string variable = word();
    if (variable == "x") {
      ++at_;
      power = take("^") ? degree() : 1;
    } else if (!variable.empty()) {
      unknown(variable);
    } else if (!has_number || star) {
      unexpected();
    }
    Scale scale = Scale::one;
    for (double d : divisors(scale)) c /= d;
    s.coefficient[power] += c;
    return scale;
  }

  std::vector<double> divisors(Scale& scale) {
    std::vector<double> numbers;
    while (text_.compare(at_, 5, "/sum(") != 0 && take("/")) {
      if (const auto constant = constant_divisor()) {
        numbers.push_back(*constant);
        if (numbers.back() == 0) fail_text("division by zero");
      } else {
        if (scale != Scale::one) fail_text("the term is scaled twice");
        scale = keys();
      }
    }
    return numbers;
  }

  /// 14, sqrt(196), or sqrt196 as √196 is spelled; nothing where something else follows.
  std::optional<double> constant_divisor() {
    if (starts_number()) return number();
    const std::size_t before = at_;
    if (!take("sqrt")) return {};
    const bool parenthesis = take("(");
    if (!starts_number()) return at_ = before, std::nullopt;
    const double square = number();
    if (parenthesis && !take(")")) fail_text("the parenthesis behind sqrt is not closed");
    return std::sqrt(square);
  }

  Scale keys() {
    if (take("sqrt(N)")) return Scale::inverse_sqrt_keys;
    if (take("sqrt(n)")) return Scale::inverse_sqrt_valid_keys;
    const std::string name = word();
    if (name != "N" && name != "n") unexpected();
    ++at_;
    return name == "N" ? Scale::inverse_keys : Scale::inverse_valid_keys;
  }

  std::size_t degree() {
    const bool minus = take("-");
    const std::size_t start = at_;
    const double d = number();
    const std::string shown = (minus ? "-" : "") + text_.substr(start, at_ - start);
    if (d != std::floor(d))
      fail_text(fmt::format("degree {} must be a whole number, 1 to {}", shown, Scoring::max_degree));
    if (minus || d < 1 || d > Scoring::max_degree)
      fail_text(fmt::format("degree {} must be 1 to {}", shown, Scoring::max_degree));
    return static_cast<std::size_t>(d);
  }

  // ---- the words ----
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(std::string_view piece) {
    if (text_.compare(at_, piece.size(), piece) != 0) return false;
    at_ += piece.size();
    return true;
  }
  void expect(std::string_view piece) {
    if (!take(piece)) unexpected();
  }
  std::string word() const {
    std::size_t end = at_;
    while (end < text_.size() && is_letter(text_[end])) ++end;
    return text_.substr(at_, end - at_);
  }
  bool starts_number() const { return (peek() >= '0' && peek() <= '9') || peek() == '.'; }
  double number() {
    if (!starts_number()) unexpected();
    double value = 0;
    const char* begin = text_.data() + at_;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (error == std::errc::result_out_of_range) fail_text("a number is out of range");
    if (error != std::errc{}) unexpected();
    at_ += static_cast<std::size_t>(end - begin);
    return value;
  }

  // ---- what is wrong ----
  [[noreturn]] void fail_text(std::string_view what) const { fail("attention \"{}\": {}", original_, what); }

  /// What is no slip of the pen, so that no near form is an answer.
  [[noreturn]] void impossible(std::string_view what) const {
    fail_text(fmt::format("{}; norma help attention tells what is possible", what));
  }

  /// With the nearest form that would be right, or with all kinds of forms.
  [[noreturn]] void wrong(std::string_view what, std::string near = {}) const {
    if (near.empty()) near = suggest(text_, forms);
    if (near.empty() || near == original_)
      fail(
          "attention \"{}\": {}; the forms are softmax, x^3/sqrt(N), x^3/14, 0.5x + x^3/14, x^2/sum(x^2), sigmoid, "
          "relu/N; norma help attention tells all",
          original_, what);
    fail("attention \"{}\": {}; did you mean \"{}\"?", original_, what, near);
  }

  [[noreturn]] void unknown(const std::string& name) const {
    std::string near;
    if (std::find(functions.begin(), functions.end(), name) != functions.end())
      wrong(fmt::format("\"{}\" takes no factor and is no term of a sum", name), name);
    if (const std::string function = suggest(name, functions); !function.empty()) {
      std::string mended = text_;
      mended.replace(at_, name.size(), function);
      if (mended != text_ && parses(mended)) near = mended;
    }
    wrong(name == original_ ? "unknown function" : fmt::format("unknown function \"{}\"", name), near);
  }

  [[noreturn]] void unexpected() const {
    if (at_ >= text_.size()) wrong("the text ends too early");
    // As it stands in the original, whose characters are counted.
    const Origin first = origin_[at_], end = origin_[at_ + std::max<std::size_t>(word().size(), 1) - 1];
    std::size_t characters = 0;
    for (std::size_t i = 0; i <= first.at; i += length_of_character(original_, i)) ++characters;
    wrong(fmt::format("unexpected \"{}\" at character {}", original_.substr(first.at, end.at + end.size - first.at),
                      characters));
  }

  std::string original_, text_;
  std::vector<Origin> origin_;  // of each byte of text_
  std::size_t at_ = 0;
};

/// |c| x^p, as a quotient where that is shorter: x^3/14.
std::string term_text(double c, int p) {
  const double size = std::abs(c), inverse = 1 / size;
  const std::string factor = fmt::format("{}", size), divisor = fmt::format("{}", inverse);
  if (p == 0) return factor;
  const std::string power = p == 1 ? "x" : fmt::format("x^{}", p);
  if (size == 1) return power;
  const bool quotient =
      factor.size() > 4 && divisor.size() <= 6 && divisor.size() < factor.size() && 1 / inverse == size;
  return quotient ? power + "/" + divisor : factor + power;
}

std::string polynomial_text(const Scoring& s) {
  std::string sum;
  int count = 0;
  for (int p = 0; p <= Scoring::max_degree; ++p) {
    const double c = s.coefficient[static_cast<std::size_t>(p)];
    if (c == 0) continue;
    if (count++ == 0) {
      sum = c < 0 ? "-" : "";
    } else {
      sum += c < 0 ? " - " : " + ";
    }
    sum += term_text(c, p);
  }
  const std::string whole = count > 1 ? "(" + sum + ")" : sum;
  if (s.normalize) return whole + "/sum(" + sum + ")";
  return s.scale == Scale::one ? sum : whole + scale_text(s.scale);
}

std::string sigmoid_text(const Scoring& s) {
  if (s.bias == 0 && !s.bias_minus_log_keys) return "sigmoid" + scale_text(s.scale);
  std::string argument = s.bias_minus_log_keys ? "x - log(N)" : "x";
  if (s.bias != 0) argument += fmt::format(" {} {}", s.bias < 0 ? '-' : '+', std::abs(s.bias));
  return "sigmoid(" + argument + ")" + scale_text(s.scale);
}

}  // namespace

Scoring parse_scoring(std::string_view text) { return Parser(text).run(); }

std::string to_string(const Scoring& scoring) {
  switch (scoring.kind) {
    case Kind::softmax: return "softmax";
    case Kind::polynomial: return polynomial_text(scoring);
    case Kind::sigmoid: return sigmoid_text(scoring);
    case Kind::relu: return "relu" + scale_text(scoring.scale);
  }
  return "";
}

const char* name(AttentionForm form) {
  switch (form) {
    case AttentionForm::automatic: return "auto";
    case AttentionForm::quadratic: return "quadratic";
    case AttentionForm::linear: return "linear";
  }
  return "";
}

AttentionForm parse_attention_form(std::string_view text) {
  for (AttentionForm form : {AttentionForm::automatic, AttentionForm::quadratic, AttentionForm::linear})
    if (text == name(form)) return form;
  fail("attention form \"{}\" is unknown; there are auto, quadratic, linear", text);
}

}  // namespace norma::nn
