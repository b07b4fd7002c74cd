#include "core/dtype.h"

namespace norma {
namespace {
struct Row {
  DType dtype;
  std::string_view name;
  std::size_t size;
};
constexpr Row rows[] = {{DType::f32, "f32", 4}, {DType::f64, "f64", 8}, {DType::bf16, "bf16", 2}, {DType::i64, "i64", 8},
                        {DType::i32, "i32", 4}, {DType::u8, "u8", 1},   {DType::boolean, "bool", 1}};
}  // namespace

std::size_t size_of(DType dtype) { return rows[static_cast<int>(dtype)].size; }
std::string_view name(DType dtype) { return rows[static_cast<int>(dtype)].name; }

DType parse_dtype(std::string_view text) {
  for (const Row& r : rows)
    if (r.name == text) return r.dtype;
  fail("dtype \"{}\" is unknown; there are f32, f64, bf16, i64, i32, u8, bool", text);
}

}  // namespace norma
