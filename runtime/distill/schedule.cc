#include "runtime/distill/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "runtime/distill/random.h"

namespace spotd::distill {

double LearningRate::At(int64_t step) const {
  if (step < warmup_steps)
    return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  const double rest = static_cast<double>(std::max<int64_t>(1, steps - warmup_steps));
  const double progress = std::min(1.0, static_cast<double>(step - warmup_steps) / rest);
  return peak *
         (final_share + (1 - final_share) * 0.5 * (1 + std::cos(std::numbers::pi * progress)));
}

std::vector<int32_t> PositionSkip::Positions(int32_t length, int64_t index) const {
  std::vector<int32_t> positions(static_cast<size_t>(length));
  std::iota(positions.begin(), positions.end(), 0);
  const auto draw = static_cast<uint64_t>(index) * 3;
  const int32_t room = max_position - length;
  if (room <= 0 || RandomUnit(seed, draw) >= probability) return positions;
  const double share = std::pow(RandomUnit(seed, draw + 2), gap_power);
  const auto gap = std::min(room, static_cast<int32_t>(share * (room + 1)));
  // The first cut is that of a sequence with one; more come from a stream of their own.
  const uint64_t more = RandomBits(seed, draw + 1);
  const auto cuts = 1 + static_cast<size_t>(RandomUnit(more, 0) * most_cuts);
  std::vector<int32_t> places(cuts);
  std::vector<int32_t> upto(cuts, gap);  // the gaps' sum up to each cut
  for (size_t i = 0; i < cuts; ++i) {
    const double unit = i == 0 ? RandomUnit(seed, draw + 1) : RandomUnit(more, 2 * i);
    places[i] = 1 + static_cast<int32_t>(unit * (length - 1));
    if (i > 0) upto[i - 1] = static_cast<int32_t>(RandomUnit(more, 2 * i + 1) * (gap + 1));
  }
  std::sort(places.begin(), places.end());
  std::sort(upto.begin(), upto.end());
  for (size_t i = 0; i < cuts; ++i) {
    const int32_t end = i + 1 < cuts ? places[i + 1] : length;
    for (int32_t at = places[i]; at < end; ++at) positions[static_cast<size_t>(at)] += upto[i];
  }
  return positions;
}

std::vector<int32_t> SampleQueries(int32_t first, int32_t length, int32_t count, uint64_t seed,
                                   int64_t index) {
  std::vector<int32_t> rows(static_cast<size_t>(length - first));
  std::iota(rows.begin(), rows.end(), first);
  const auto take = std::min<size_t>(static_cast<size_t>(count), rows.size());
  // The first `take` places of a Fisher-Yates shuffle.
  for (size_t i = 0; i < take; ++i) {
    const uint64_t bits =
        RandomBits(seed, static_cast<uint64_t>(index) * static_cast<uint64_t>(length) + i);
    std::swap(rows[i], rows[i + bits % (rows.size() - i)]);
  }
  rows.resize(take);
  std::sort(rows.begin(), rows.end());
  return rows;
}

}  // namespace spotd::distill
