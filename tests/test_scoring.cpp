// The attention function as text: what is understood, how it is printed, and what is said about what is wrong.
#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/random.h"
#include "nn/scoring.h"

using namespace norma;
using nn::parse_scoring;
using Kind = Scoring::Kind;
using Scale = Scoring::Scale;

namespace {

Scoring polynomial(std::initializer_list<std::pair<int, double>> terms, Scale scale = Scale::one) {
  Scoring s;
  s.kind = Kind::polynomial;
  s.scale = scale;
  for (auto [p, c] : terms) s.coefficient[static_cast<std::size_t>(p)] = c;
  return s;
}

Scoring other(Kind kind, Scale scale = Scale::one, double bias = 0, bool minus_log = false) {
  Scoring s;
  s.kind = kind, s.scale = scale, s.bias = bias, s.bias_minus_log_keys = minus_log;
  return s;
}

Scoring normalized(Scoring s) {
  s.normalize = true;
  return s;
}

std::string message(const std::string& text) {
  try {
    parse_scoring(text);
  } catch (const Error& e) {
    return e.what();
  }
  return "(accepted)";
}

}  // namespace

TEST_CASE("attention texts are understood and printed", "[scoring]") {
  struct Case {
    const char *text, *printed;
    Scoring scoring;
  };
  const Case cases[] = {
      {"softmax", "softmax", {}},
      {" soft max ", "softmax", {}},
      {"x^3/sqrt(N)", "x^3/sqrt(N)", polynomial({{3, 1}}, Scale::inverse_sqrt_keys)},
      {"x ^ 3 / sqrt( n )", "x^3/sqrt(n)", polynomial({{3, 1}}, Scale::inverse_sqrt_valid_keys)},
      {"x^3/14", "x^3/14", polynomial({{3, 1.0 / 14}})},
      {"x^3", "x^3", polynomial({{3, 1}})},
      {"x", "x", polynomial({{1, 1}})},
      {"x/N", "x/N", polynomial({{1, 1}}, Scale::inverse_keys)},
      {"x/n", "x/n", polynomial({{1, 1}}, Scale::inverse_valid_keys)},
      {"0.5x + x^3/14", "0.5x + x^3/14", polynomial({{1, 0.5}, {3, 1.0 / 14}})},
      {"0.5*x+1*x^3/14", "0.5x + x^3/14", polynomial({{1, 0.5}, {3, 1.0 / 14}})},
      {"x^3/sqrt(196)", "x^3/14", polynomial({{3, 1.0 / 14}})},
      {"x³/√196", "x^3/14", polynomial({{3, 1.0 / 14}})},
      {"(x + x^3)/sqrt(4)/sqrt(N)", "(0.5x + 0.5x^3)/sqrt(N)", polynomial({{1, 0.5}, {3, 0.5}}, Scale::inverse_sqrt_keys)},
      {"-x + 2", "2 - x", polynomial({{0, 2}, {1, -1}})},
      {"x - x^3/3 + x^3", "x + 0.6666666666666667x^3", polynomial({{1, 1}, {3, 1 - 1.0 / 3}})},
      {"(0.5x + x^3)/sqrt(N)", "(0.5x + x^3)/sqrt(N)", polynomial({{1, 0.5}, {3, 1}}, Scale::inverse_sqrt_keys)},
      {"0.5x/N + x^3/N", "(0.5x + x^3)/N", polynomial({{1, 0.5}, {3, 1}}, Scale::inverse_keys)},
      {"(x + x^3)/2", "0.5x + 0.5x^3", polynomial({{1, 0.5}, {3, 0.5}})},
      {"x^3/14/sqrt(N)", "x^3/14/sqrt(N)", polynomial({{3, 1.0 / 14}}, Scale::inverse_sqrt_keys)},
      {"1e-3x^8", "x^8/1000", polynomial({{8, 1e-3}})},
      {"x^2/sum(x^2)", "x^2/sum(x^2)", normalized(polynomial({{2, 1}}))},
      {"(1 + x^4)/sum(1 + x^4)", "(1 + x^4)/sum(1 + x^4)", normalized(polynomial({{0, 1}, {4, 1}}))},
      {"sigmoid", "sigmoid", other(Kind::sigmoid)},
      {"sigmoid(x)", "sigmoid", other(Kind::sigmoid)},
      {"sigmoid(x - log(N))", "sigmoid(x - log(N))", other(Kind::sigmoid, Scale::one, 0, true)},
      {"sigmoid(x-2)", "sigmoid(x - 2)", other(Kind::sigmoid, Scale::one, -2)},
      {"sigmoid(x - log(N) + 0.25)/N", "sigmoid(x - log(N) + 0.25)/N",
       other(Kind::sigmoid, Scale::inverse_keys, 0.25, true)},
      {"relu", "relu", other(Kind::relu)},
      {"relu(x)/N", "relu/N", other(Kind::relu, Scale::inverse_keys)},
      {"relu/n", "relu/n", other(Kind::relu, Scale::inverse_valid_keys)},
      {"x³/√N", "x^3/sqrt(N)", polynomial({{3, 1}}, Scale::inverse_sqrt_keys)},
      {"x ³ / √ ( n )", "x^3/sqrt(n)", polynomial({{3, 1}}, Scale::inverse_sqrt_valid_keys)},
      {"0.5·x + 1×x³/14", "0.5x + x^3/14", polynomial({{1, 0.5}, {3, 1.0 / 14}})},
      {"x⁸ − 2⋅x⁵", "-2x^5 + x^8", polynomial({{5, -2}, {8, 1}})},
      {"x²/sum(x²)", "x^2/sum(x^2)", normalized(polynomial({{2, 1}}))},
      {"sigmoid(x − log(N))/√N", "sigmoid(x - log(N))/sqrt(N)", other(Kind::sigmoid, Scale::inverse_sqrt_keys, 0, true)},
  };
  for (const Case& c : cases) {
    INFO(c.text);
    CHECK(message(c.text) == "(accepted)");
    CHECK(parse_scoring(c.text) == c.scoring);
    CHECK(nn::to_string(c.scoring) == c.printed);
    CHECK(parse_scoring(c.printed) == c.scoring);
  }
}

TEST_CASE("any scoring survives printing and parsing", "[scoring]") {
  const RandomStream stream{1, 2};
  std::uint64_t at = 0;
  auto draw = [&] { return stream.word(at++); };
  const double sizes[] = {1, 0.5, 1.0 / 3, 1.0 / 14, 14, 1e-5, 1e20, 0.1, 0.3};
  for (int i = 0; i < 5000; ++i) {
    Scoring s;
    s.kind = static_cast<Kind>(draw() % 4);
    if (s.kind != Kind::softmax) s.scale = static_cast<Scale>(draw() % 5);
    const bool exact = draw() % 2;
    auto number = [&] {
      const double size = exact ? sizes[draw() % 9] : static_cast<double>(uniform_from(draw())) + 0x1p-30;
      return draw() % 2 ? size : -size;
    };
    if (s.kind == Kind::sigmoid) {
      s.bias_minus_log_keys = draw() % 2;
      if (draw() % 2) s.bias = number();
    }
    if (s.kind == Kind::polynomial) {
      s.normalize = draw() % 4 == 0;
      for (std::size_t p = 0; p <= 8; ++p)
        if (draw() % 3 == 0) s.coefficient[p] = number();
      s.coefficient[2 + 2 * (draw() % 4)] = number();
      if (s.normalize) {
        s.scale = Scale::one;
        for (std::size_t p = 0; p <= 8; ++p) s.coefficient[p] = p % 2 ? 0 : std::abs(s.coefficient[p]);
      }
    }
    INFO(nn::to_string(s));
    CHECK(parse_scoring(nn::to_string(s)) == s);
  }
}

TEST_CASE("wrong attention texts are explained", "[scoring]") {
  const std::string forms =
      "; the forms are softmax, x^3/sqrt(N), x^3/14, 0.5x + x^3/14, x^2/sum(x^2), sigmoid, relu/N; norma help attention tells all";
  const std::string see = "; norma help attention tells what is possible";
  const std::pair<std::string, std::string> cases[] = {
      {"sofmax", "unknown function; did you mean \"softmax\"?"},
      {"Softmax", "unknown function; did you mean \"softmax\"?"},
      {"X^3/sqrt(N)", "unknown function \"X\"; did you mean \"x^3/sqrt(N)\"?"},
      {"rleu/N", "unknown function \"rleu\"; did you mean \"relu/N\"?"},
      {"x^9", "degree 9 must be 1 to 8"},
      {"x^0", "degree 0 must be 1 to 8"},
      {"x^-1", "degree -1 must be 1 to 8"},
      {"x^2.5", "degree 2.5 must be a whole number, 1 to 8"},
      {"x^3/sum(x^3)", "only even powers can be normalised"},
      {"x^2/sum(x^4)", "the sum must run over the same polynomial"},
      {"1 + x^2/sum(x^2)", "the polynomial before /sum needs parentheses"},
      {"x^2 + x^4/sum(x^4)", "the polynomial before /sum needs parentheses"},
      {"relu/N/N", "unexpected \"/\" at character 7; did you mean \"relu/N\"?"},
      {"-x^2/sum(-x^2)", "a normalised polynomial must not be negative, its row sums could vanish"},
      {"x^2/N/sum(x^2)", "a normalised row takes no scale"},
      {"x + x^3/sqrt(N)",
       "every term must have the same scale; write the polynomial in parentheses, (0.5x + x^3)/sqrt(N)"},
      {"0.5x + x^3/sqrt(n)",
       "every term must have the same scale; write the polynomial in parentheses, (0.5x + x^3)/sqrt(n)"},
      {"x/n + x^3", "every term must have the same scale; write the polynomial in parentheses, (0.5x + x^3)/n"},
      {"x/N/n", "the term is scaled twice"},
      {"x/0", "division by zero"},
      {"3", "there is no term in x"},
      {"1e999x", "a number is out of range"},
      {"x/1e-200/1e-200", "a coefficient is too large"},
      {"sigmoid(x+1e308+1e308)", "the number added to x is too large"},
      {"x^3/sqrt(M)", "unexpected \"sqrt\" at character 5; did you mean \"x^3/sqrt(N)\"?"},
      {"x^3/sqrt(N", "unexpected \"sqrt\" at character 5; did you mean \"x^3/sqrt(N)\"?"},
      {"x^3/sqrt(196", "the parenthesis behind sqrt is not closed"},
      {"x/sqrt(0)", "division by zero"},
      {"relu/14", "relu is divided by N, n, sqrt(N) or sqrt(n) alone; a constant divides polynomials, as in x^3/14"},
      {"sigmoid(x - 2)/sqrt(196)", "sigmoid is divided by N, n, sqrt(N) or sqrt(n) alone; a constant divides polynomials, as in x^3/14"},
      {"x^", "the text ends too early; did you mean \"x^3\"?"},
      {"x ^ 3 !", "unexpected \"!\" at character 7; did you mean \"x^3\"?"},
      {"softmax/N", "softmax is of the scores as they are, without argument, scale or power" + see},
      {"softmax(2x)", "softmax is of the scores as they are, without argument, scale or power" + see},
      {"relu^2/N", "relu has no powers" + see},
      {"relu(x)^2", "relu has no powers" + see},
      {"relu(2x)/N", "relu takes x alone" + see},
      {"sigmoid(2x)", "sigmoid takes x, moved by numbers or by log(N), as in sigmoid(x - 2)" + see},
      {"sigmoid^2", "sigmoid has no powers" + see},
      {"|x|^3", "there is no |x|; of an even power the sign is gone, as in x^2" + see},
      {"x + |x|", "there is no |x|; of an even power the sign is gone, as in x^2" + see},
      {"", "nothing is given" + forms},
      {"performer", "unknown function" + forms},
      {"x³/√M", "unexpected \"√M\" at character 4; did you mean \"x^3/sqrt(N)\"?"},
      {"x³ ☺", "unexpected \"☺\" at character 4" + forms},
      {"½x", "unexpected \"½\" at character 1" + forms},
      {"softmax²", "softmax is of the scores as they are, without argument, scale or power" + see},
      {"x¹⁰", "degree 10 must be 1 to 8"},
      {"2softmax", "\"softmax\" takes no factor and is no term of a sum; did you mean \"softmax\"?"},
      {"x + relu", "\"relu\" takes no factor and is no term of a sum; did you mean \"relu\"?"},
  };
  for (const auto& [text, what] : cases) CHECK(message(text) == "attention \"" + text + "\": " + what);
  CHECK(message(std::string(1001, 'x')) == "attention: the text has 1001 characters, 1000 is the most");
}

TEST_CASE("a sigmoid is shifted by the logarithm of the keys once", "[scoring]") {
  CHECK_THAT(message("sigmoid(x-log(N)-log(N))"), Catch::StartsWith("attention \"sigmoid(x-log(N)-log(N))\": "));
}
