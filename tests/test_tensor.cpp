// What a tensor is asked before anything is computed: layouts inside their storage, numbers that a dtype has, devices; and its text.
#include <catch2/catch.hpp>
#include <limits>

#include "autograd/ops.h"
#include "core/backend.h"
#include "tests/errors.h"

using namespace norma;
using norma::test::error_of;

TEST_CASE("a layout lies within so many elements", "[tensor]") {
  const auto within = [](const Shape& shape, Strides strides, Index offset, Index elements) { return Layout(shape, strides, offset).within(elements); };
  CHECK(Layout(Shape{2, 3}).within(6));
  CHECK_FALSE(Layout(Shape{2, 3}).within(5));
  CHECK(Layout(Shape{}).within(1));
  CHECK_FALSE(Layout(Shape{}).within(0));
  CHECK(within({2, 3}, {1, 2}, 0, 6));     // turned round
  CHECK(within({4}, {-2}, 6, 7));          // backwards: 6, 4, 2, 0
  CHECK_FALSE(within({4}, {-2}, 5, 7));
  CHECK_FALSE(within({4}, {-2}, 7, 7));
  CHECK(within({3, 4}, {4, -1}, 3, 12));   // the end of an axis and the beginning of the other
  CHECK_FALSE(within({3, 4}, {4, -1}, 4, 12));
  CHECK(within({1000}, {0}, 1, 2));        // expanded
  CHECK_FALSE(within({1000}, {0}, 2, 2));
  CHECK(within({1}, {1000}, 0, 1));        // the stride of one element is never taken
  CHECK(within({0, 5}, {1, 1}, 100, 0));   // and of none
  const Index most = std::numeric_limits<Index>::max();
  CHECK_FALSE(within({most}, {most}, 0, most));
  CHECK_FALSE(within({2, 2}, {most, most}, most, most));
  CHECK_FALSE(within({2}, {-most - 1}, 0, most));
}

TEST_CASE("an empty tensor may be of any sizes, and is contiguous however it is turned", "[tensor]") {
  constexpr Index large = Index{1} << 40;
  const Layout empty(Shape{0, large, large});
  CHECK(empty.contiguous());
  const Layout cut = slice(slice(empty, 1, large - 1, 1 << 9, -(Index{1} << 30)), 2, 5, 2, Index{1} << 38);
  CHECK(cut.shape == Shape{0, 1 << 9, 2});
  CHECK(cut.contiguous());
  CHECK(transpose(Layout(Shape{0, 3, 5}), 1, 2).contiguous());
  CHECK(zeros({0, large, large}).values().empty());
  CHECK(Shape({large, large, 0}).numel() == 0);
  CHECK(slice(Layout(Shape{4}), 0, 2, 1, std::numeric_limits<Index>::min()).within(4));
}

TEST_CASE("no view reaches outside its storage", "[tensor]") {
  const Tensor x = zeros({2}), wide = zeros({2}, {DType::f64});
  CHECK(error_of([&] { return x.with_layout(Layout(Shape{1000})); }) ==
        "tensor: the layout [1000] with strides [1] and offset 0 reaches outside its storage, which has 2 elements of f32");
  CHECK(error_of([&] { return x.with_layout(Layout({2, 1}, {-1, 1}, 0)); }) ==
        "tensor: the layout [2, 1] with strides [-1, 1] and offset 0 reaches outside its storage, which has 2 elements of f32");
  CHECK(error_of([&] { return wide.with_layout(Layout({}, {}, 2)); }) ==
        "tensor: the layout [] with strides [] and offset 2 reaches outside its storage, which has 2 elements of f64");
  CHECK(Tensor(wide.storage(), Layout(Shape{4}), DType::f32).numel() == 4);  // 16 bytes
  CHECK(error_of([&] { return Tensor(x.storage(), Layout(Shape{2}), DType::f64); }) ==
        "tensor: the layout [2] with strides [1] and offset 0 reaches outside its storage, which has 1 elements of f64");
  CHECK(x.with_layout(Layout({2, 2}, {-1, 0}, 1)).values() == std::vector<double>(4, 0.0));
  CHECK(x.with_layout(Layout(Shape{0, 7})).numel() == 0);
  CHECK(error_of([&] { fill(wide.with_layout(Layout({2}, {0}, 0)), 3); }) ==
        "fill: the target [2] is expanded, several indices share an element; make it contiguous() first");
}

TEST_CASE("a text holds the ends of long axes, and reads no more", "[tensor]") {
  CHECK(arange(8).text() == "i64 [8] [0, 1, 2, 3, 4, 5, 6, 7]");
  CHECK(arange(9, {DType::f32}).text() == "f32 [9] [0, 1, 2, ..., 6, 7, 8]");
  const Tensor table = arange(200);
  const std::string rows = "[[0, 1], [2, 3], [4, 5], ..., [194, 195], [196, 197], [198, 199]]";
  CHECK(table.with_layout(Layout(Shape{100, 2})).text() == "i64 [100, 2] " + rows);
  CHECK(table.with_layout(Layout({2, 100}, {1, 2}, 0)).text() == "i64 [2, 100] [[0, 2, 4, ..., 194, 196, 198], [1, 3, 5, ..., 195, 197, 199]]");
  CHECK(table.with_layout(Layout({10, 10}, {-10, 1}, 190)).text() ==
        "i64 [10, 10] [[190, 191, 192, ..., 197, 198, 199], [180, 181, 182, ..., 187, 188, 189], [170, 171, 172, ..., 177, 178, 179], ..., "
        "[120, 121, 122, ..., 127, 128, 129], [110, 111, 112, ..., 117, 118, 119], [100, 101, 102, ..., 107, 108, 109]]");
  CHECK(full({}, 0.1, {DType::f64}).text() == "f64 [] 0.1");
  CHECK(full({2}, 1, {DType::boolean}).text() == "bool [2] [1, 1]");
  CHECK(full({1}, 255, {DType::u8}).text() == "u8 [1] [255]");
  CHECK(zeros({0}).text() == "f32 [0] []");
  CHECK(zeros({9, 0}).text() == "f32 [9, 0] [[], [], [], ..., [], [], []]");
  CHECK(full({1}, -std::numeric_limits<double>::infinity()).text() == "f32 [1] [-inf]");
  CHECK(full({1}, -std::numeric_limits<double>::quiet_NaN()).text() == "f32 [1] [nan]");

  const std::int64_t large[] = {9007199254740993, -9007199254740993, std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min()};
  CHECK(from_host(large, {4}, {DType::i64}).text() == "i64 [4] [9007199254740993, -9007199254740993, 9223372036854775807, -9223372036854775808]");

  // 2^50 elements: no memory holds them.
  const Tensor vast = full({1}, 3, {DType::u8}).with_layout(Layout({Index{1} << 50}, {0}, 0));
  CHECK(vast.text() == "u8 [1125899906842624] [3, 3, 3, ..., 3, 3, 3]");
}

TEST_CASE("an integer dtype is filled with numbers that it has", "[tensor]") {
  const auto filled = [](double value, DType dtype) { return error_of([&] { return full({2}, value, {dtype}); }); };
  CHECK(filled(1.7, DType::i64) == "full: 1.7 is not an integer, but the dtype is i64");
  CHECK(filled(std::numeric_limits<double>::quiet_NaN(), DType::i32) == "full: nan is not an integer, but the dtype is i32");
  CHECK(filled(300, DType::u8) == "full: 300 does not fit into u8, which goes from 0 to 255");
  CHECK(filled(-1, DType::u8) == "full: -1 does not fit into u8, which goes from 0 to 255");
  CHECK(filled(0x1p31, DType::i32) == "full: 2147483648 does not fit into i32, which goes from -2147483648 to 2147483647");
  CHECK(filled(0x1p63, DType::i64) == "full: 9.223372036854776e+18 does not fit into i64, which goes from -9223372036854775808 to 9223372036854775807");
  for (const auto& [value, dtype] : {std::pair(255.0, DType::u8), {0.0, DType::u8}, {0x1p31 - 1, DType::i32}, {-0x1p31, DType::i32}, {-0x1p63, DType::i64}})
    CHECK(full({2}, value, {dtype}).values() == std::vector<double>(2, value));
  CHECK(full({1}, 0.5, {DType::boolean}).item() == 1);
  const Tensor x = zeros({2}, {DType::i64});
  CHECK(error_of([&] { fill(x, 0.5); }) == "fill: 0.5 is not an integer, but the dtype is i64");
  CHECK(x.values() == std::vector<double>{0, 0});
}

TEST_CASE("values of an integer dtype are numbers that it has", "[tensor]") {
  CHECK(error_of([&] { return from_values({1, 1.7}, {2}, {DType::i64}); }) == "from_values: 1.7 is not an integer, but the dtype is i64");
  CHECK(error_of([&] { return from_values({300}, {1}, {DType::u8}); }) == "from_values: 300 does not fit into u8, which goes from 0 to 255");
  CHECK(from_values({0, 255}, {2}, {DType::u8}).values() == std::vector<double>{0, 255});
}

TEST_CASE("too large a tensor is the library's error, however it is filled", "[tensor]") {
  constexpr Index large = Index{1} << 45;
  const auto refused = [](auto make) { CHECK_THAT(error_of(make), Catch::StartsWith("out of memory: need 256 TiB")); };
  refused([] { return arange(large); });
  refused([] { return arange(large, {DType::f64}); });
  refused([] { return one_hot(zeros({1}, {DType::i64}), large); });
  CHECK_THAT(error_of([] { return tril(expand(ones({1, 1}), {1, large})); }), Catch::StartsWith("out of memory: need "));
}

TEST_CASE("what writes in place names what it was given instead of a tensor", "[tensor]") {
  CHECK(error_of([] { fill(Tensor(), 1); }) == "fill: the target is an empty Tensor handle");
  CHECK(error_of([] { copy_into(Tensor(), ones({2})); }) == "copy_into: the target is an empty Tensor handle");
  CHECK(error_of([] { copy_into(ones({2}), Tensor()); }) == "copy_into: the source is an empty Tensor handle");
}

TEST_CASE("what is copied into no element is refused, unless it has none itself", "[tensor]") {
  const Tensor cache = zeros({1, 2, 4, 8}), beyond = slice(cache, 2, 4, 5);
  for (const Tensor& one : {ones({1, 2, 1, 8}), ones({})})
    CHECK(error_of([&] { copy_into(beyond, one); }) ==
          fmt::format("copy_into: the target [1, 2, 0, 8] has no elements, so the source {} would be lost; is it a slice beyond the end?", one.shape()));
  copy_into(beyond, ones({1, 2, 0, 8}));
  copy_into(beyond, ones({0, 8}));
  CHECK(sum(cache).item() == 0);
}

TEST_CASE("a count longer than a piece of host memory goes on where the piece ends", "[tensor]") {
  constexpr Index count = (Index{1} << 20) + 3;
  const Tensor wide = arange(count), narrow = arange(count, {DType::f32});
  CHECK(wide.text() == "i64 [1048579] [0, 1, 2, ..., 1048576, 1048577, 1048578]");
  CHECK(sum(wide).item() == static_cast<double>(count) * static_cast<double>(count - 1) / 2);
  CHECK(all(equal(cast(narrow, DType::i64), wide)).item() == 1);
}

TEST_CASE("sums of integers wrap around", "[tensor]") {
  for (const char* device : {"cpu", "reference"}) {
    const Tensor x = full({3}, 0x1p62, {DType::i64, parse_device(device)});
    CHECK(sum(slice(x, 0, 0, 2)).item() == -0x1p63);
    CHECK(cumsum(x, 0).values() == std::vector<double>{0x1p62, -0x1p63, -0x1p62});
    CHECK(sum(full({3, 40000}, 0x1p62, {DType::i64, parse_device(device)}), 0).values() == std::vector<double>(40000, -0x1p62));
  }
}

TEST_CASE("sums of narrow integers take no wider copy of them", "[tensor]") {
  constexpr Index count = Index{1} << 16;
  for (const char* device : {"cpu", "reference"})
    for (const auto& [dtype, value] : {std::pair(DType::u8, 200.0), {DType::i32, -0x1p31}, {DType::boolean, 1.0}}) {
      const Tensor x = full({4, count / 4}, value, {dtype, parse_device(device)});
      Backend& b = backend(x.device());
      const std::size_t before = b.memory().in_use;
      b.reset_peak();
      const Tensor all_of_it = sum(x), rows = sum(x, 1);
      CHECK(b.memory().peak - before < static_cast<std::size_t>(count));
      CHECK(all_of_it.dtype() == DType::i64);
      CHECK(all_of_it.item() == value * count);
      CHECK(rows.values() == std::vector<double>(4, value * count / 4));
    }
}

TEST_CASE("a layout whose elements overlap is not written", "[tensor]") {
  const auto overlaps = [](const Shape& shape, const Strides& strides) { return Layout(shape, strides, 0).overlapping(); };
  CHECK_FALSE(overlaps({2, 3}, {3, 1}));
  CHECK_FALSE(overlaps({2, 3}, {1, 2}));
  CHECK_FALSE(overlaps({2, 3}, {-3, 1}));
  CHECK_FALSE(overlaps({2, 1}, {1, 0}));
  CHECK_FALSE(overlaps({0, 5}, {0, 0}));
  CHECK(overlaps({2, 3}, {0, 1}));
  CHECK(overlaps({2, 2}, {1, 1}));
  CHECK(overlaps({2, 3}, {2, 1}));
  CHECK(overlaps({3, 2}, {2, -4}));
  const Tensor x = zeros({3});
  CHECK_THROWS_AS(fill(x.with_layout(Layout({2, 2}, {1, 1}, 0)), 1), Error);
  CHECK(x.values() == std::vector<double>(3, 0));
}

TEST_CASE("only cuda has more than one device", "[tensor]") {
  const auto unknown = [](const std::string& text) { return "device \"" + text + "\" is unknown; there are cpu, cuda, cuda:INDEX, reference"; };
  using Kind = Device::Kind;
  for (const auto& [device, text] : {std::pair(Device{Kind::cpu, 3}, "cpu:3"), {Device{Kind::cpu, -1}, "cpu:-1"}, {Device{Kind::reference, 1}, "reference:1"},
                                     {Device{Kind::cuda, -1}, "cuda:-1"}}) {
    CHECK(name(device) == text);
    CHECK(error_of([device = device] { backend(device); }) == unknown(text));
    CHECK(error_of([device = device] { return zeros({2}, {DType::f32, device}); }) == unknown(text));
    CHECK(error_of([text = text] { parse_device(text); }) == unknown(text));
  }
  CHECK(name(Device{}) == "cpu");
  CHECK(name(parse_device("cuda:2")) == "cuda:2");
  CHECK(parse_device("cuda:2") == Device{Kind::cuda, 2});
}
