/** Fits over a small made-up head, where the truth is known: text that differs from the base in a way of our making. */
import { expect, test } from "vitest";
import { type Example, fitInstant, type Head } from "../../../../../gpu-backend/adapters/instant/fit.ts";
import { derivatives } from "../../../../../gpu-backend/adapters/instant/rank-one.ts";
import { seededRandom } from "../../../../support/steps.ts";

const V = 60;
const D = 6;
const random = seededRandom(92);
const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
const floats = (length: number, spread: number) => Float32Array.from({ length }, () => spread * normal());
const W = floats(V * D, 0.8);
/** What the gates add, one gate: a bias. */
const bank = floats(V, 1);

/** What makes text differ from the base's: a bias [V], and a pair of rank 1. */
interface Truth {
  bias?: Float32Array;
  a?: Float32Array;
  b?: Float32Array;
  gates?: Float32Array;
}
const plain: Truth = {};

function distribution(h: Float32Array, { bias, a, b, gates }: Truth): Float64Array {
  const u = a ? h.reduce((sum, x, d) => sum + x * a[d], 0) : 0;
  const logits = Float64Array.from({ length: V }, (_, v) => {
    let logit = (bias?.[v] ?? 0) + (b ? u * b[v] : 0) + (gates?.[0] ?? 0) * bank[v];
    for (let d = 0; d < D; d++) logit += W[v * D + d] * h[d];
    return logit;
  });
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0);
  return logits.map((logit) => Math.exp(logit) / total);
}

function draw(count: number, tokens: number, truth: Truth): Example[] {
  return Array.from({ length: count }, () => {
    const hidden = floats(tokens * D, 1);
    const targets = Int32Array.from({ length: tokens }, (_, n) => {
      const p = distribution(hidden.subarray(n * D, (n + 1) * D), truth);
      let left = random();
      const drawn = p.findIndex((mass) => {
        left -= mass;
        return left < 0;
      });
      return drawn < 0 ? V - 1 : drawn;
    });
    return { hidden, targets };
  });
}

const rowsOf = ({ hidden, targets }: Example, gates: Float32Array | null) =>
  Array.from(targets, (_, n) => distribution(hidden.subarray(n * D, (n + 1) * D), { gates: gates ?? undefined }));
const head: Head = {
  vocabularySize: V,
  async survey(example, gates) {
    const rows = rowsOf(example, gates);
    const expected = new Float64Array(V).map((_, v) => rows.reduce((sum, p) => sum + p[v], 0));
    return { logprobs: Float32Array.from(rows, (p, n) => Math.log(p[example.targets[n]])), expected };
  },
  async probabilities(example, gates, support) {
    return Float32Array.from(rowsOf(example, gates).flatMap((p) => Array.from(support, (id) => p[id])));
  },
};
const withDirections = { withDirections: true };

/** What the served parts gain on text, by the serving formula. */
function servedGain(texts: readonly Example[], { gates, bias, directions }: Awaited<ReturnType<typeof fitInstant>>) {
  const dense = new Float32Array(V);
  bias?.ids.forEach((id, i) => {
    dense[id] = bias.values[i];
  });
  const worn: Truth = { bias: dense, a: directions?.a, b: directions?.b, gates: gates ?? undefined };
  let nats = 0;
  let tokens = 0;
  for (const { hidden, targets } of texts) {
    targets.forEach((id, n) => {
      const h = hidden.subarray(n * D, (n + 1) * D);
      nats += Math.log(distribution(h, worn)[id]) - Math.log(distribution(h, plain)[id]);
      tokens++;
    });
  }
  return nats / tokens;
}

const cases: [string, Truth, string[]][] = [
  ["a bias", { bias: floats(V, 0.8) }, ["unigram"]],
  ["a direction", { a: floats(D, 0.6), b: floats(V, 0.8) }, ["rank-1"]],
  ["a bias and a direction", { bias: floats(V, 0.8), a: floats(D, 0.6), b: floats(V, 0.8) }, ["unigram", "rank-1"]],
  ["the centroid's gates", { gates: Float32Array.of(1) }, ["gates"]],
];
test.each(cases)(
  "finds what makes text differ: %s; and claims about what it gains on other text",
  async (_, truth, parts) => {
    const fit = await fitInstant(draw(24, 120, truth), Float32Array.of(truth.gates ? 1 : 0.3), head, withDirections);
    const gain = servedGain(draw(40, 120, truth), fit);
    const kept = fit.parts.filter((part) => part.kept).map(({ name }) => name);
    console.log(
      `kept ${kept}; claimed ${fit.gain?.nats.toFixed(3)} [${fit.gain?.ci95.map((x) => x.toFixed(3))}], found ${gain.toFixed(3)}`,
    );
    expect(kept).toEqual(expect.arrayContaining(parts));
    // The adapter that is kept has seen more than those that the claim was measured with.
    expect(gain).toBeGreaterThan(fit.gain!.ci95[0] - 0.01);
    expect(gain).toBeLessThan(fit.gain!.ci95[1] + 0.03);
  },
);

test("is the base for text that the base knows, at any number of examples: nothing is kept, nothing claimed", async () => {
  for (const examples of [2, 3, 5, 12, 20, 30]) {
    for (let draws = 0; draws < 5; draws++) {
      const fit = await fitInstant(draw(examples, 60, plain), Float32Array.of(0.3), head, withDirections);
      expect(fit).toMatchObject({ gates: null, bias: null, directions: null, gain: null });
      expect(fit.parts.some(({ kept }) => kept)).toBe(false);
    }
  }
});

test("fits no direction to fewer than 20 examples, nor where none can be served", async () => {
  const truth = { a: floats(D, 0.6), b: floats(V, 0.8) };
  const names = async (examples: number, isServed: boolean) =>
    (await fitInstant(draw(examples, 60, truth), null, head, { withDirections: isServed })).parts.map(
      ({ name }) => name,
    );
  expect(await names(19, true)).toEqual(["unigram"]);
  expect(await names(20, false)).toEqual(["unigram"]);
  expect(await names(20, true)).toEqual(["unigram", "rank-1"]);
});

test("is deterministic", async () => {
  const examples = draw(20, 60, { bias: floats(V, 0.8), a: floats(D, 0.6), b: floats(V, 0.8) });
  const fitted = () => fitInstant(examples, Float32Array.of(0.3), head, withDirections);
  expect(await fitted()).toEqual(await fitted());
});

test("the derivatives are those of the loss, by finite differences", () => {
  const [N, R] = [7, 5];
  const bent = { at: Int32Array.from({ length: N }, (_, n) => n), ...bentRows(N, R) };
  const u = Float64Array.from({ length: N }, normal);
  const b = Float64Array.from({ length: R }, normal);
  const step = 1e-5;
  const lossAt = (uu: Float64Array, bb: Float64Array) => derivatives(bent, uu, bb).loss;
  const moved = (x: Float64Array, i: number, by: number) => x.map((value, j) => (i === j ? value + by : value));
  const exact = derivatives(bent, u, b);
  const differences = [
    ...b.map((_, r) => exact.slopes[r] - (lossAt(u, moved(b, r, step)) - lossAt(u, moved(b, r, -step))) / (2 * step)),
    ...u.map((_, n) => exact.along[n] - (lossAt(moved(u, n, step), b) - lossAt(moved(u, n, -step), b)) / (2 * step)),
  ].map(Math.abs);
  console.log(`max |exact − finite difference| ${Math.max(...differences).toExponential(1)}`);
  expect(Math.max(...differences)).toBeLessThan(1e-6);
});

function bentRows(N: number, R: number) {
  const probabilities = Float32Array.from({ length: N * R }, () => random() / (R + 1));
  return { probabilities, targets: Int32Array.from({ length: N }, (_, n) => (n % (R + 1)) - 1) };
}
