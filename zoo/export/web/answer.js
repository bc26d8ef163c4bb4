// Turns the outputs of the network into an answer, as zoo_runtime does.

// From this probability on, a network that gives several labels assigns a class.
const THRESHOLD = 0.5;

// Return {label, confidence, unknown, labels, outlierScore, outlier, sets, ranked}, as in zoo_runtime's Prediction.
//
// label is null if the answer is unknown. sets has the label set (class names) of each coverage. ranked has
// {name, probability} of every class, likeliest first.
//
// probabilities: one number per class. score: how unlike the training pictures the picture is, or null. info: model.json.
export function answerOf(probabilities, score, info) {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  const ranked = order.map((i) => ({ name: info.classes[i], probability: probabilities[i] }));
  const [best] = ranked;
  const { unknown_below: lowest, outlier_above: highest, sets } = info.trust;
  const unknown = lowest !== null && best.probability < lowest;
  const assigned =
    info.task === "multilabel" ? ranked.filter(({ probability }) => probability >= THRESHOLD) : [best];
  const names = (list) => list.map(({ name }) => name);
  const setOf = (least) => names(ranked.filter(({ probability }) => probability >= least));
  return {
    label: unknown ? null : best.name,
    confidence: best.probability,
    unknown,
    labels: unknown ? [] : names(assigned),
    outlierScore: score,
    outlier: score !== null && highest !== null && score > highest,
    sets: Object.fromEntries(Object.entries(sets).map(([coverage, least]) => [coverage, setOf(least)])),
    ranked,
  };
}
