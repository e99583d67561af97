/** Fits over a small made-up head, where the truth is known: text that differs from the base in a way of our making. */
import { expect, test } from "vitest";
import { choose } from "../../../../../gpu-backend/adapters/own/choice.ts";
import { type Example, fitOwnAdapter, type Head, observe } from "../../../../../gpu-backend/adapters/own/fit.ts";
import { gainOver } from "../../../../../gpu-backend/adapters/own/held-out-gain.ts";
import { FoldParts } from "../../../../../gpu-backend/adapters/own/token-bias.ts";
import { seededRandom } from "../../../../support/steps.ts";

const V = 60;
const D = 6;
const seed = 92;
const random = seededRandom(seed);
const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
const floats = (length: number, spread: number) => Float32Array.from({ length }, () => spread * normal());
const W = floats(V * D, 0.8);
/** What the gates add, one gate: a bias. */
const bank = floats(V, 1);

/** What makes text differ from the base's: a bias [V], or gates. */
interface Truth {
  bias?: Float32Array;
  gates?: Float32Array;
}
const plain: Truth = {};

/** Loops, since the tests spend most of their time here. */
function distribution(h: Float32Array, { bias, gates }: Truth): Float64Array {
  const masses = new Float64Array(V);
  let total = 0;
  for (let v = 0; v < V; v++) {
    let logit = (bias ? bias[v] : 0) + (gates ? gates[0] : 0) * bank[v];
    for (let d = 0; d < D; d++) logit += W[v * D + d] * h[d];
    masses[v] = Math.exp(logit);
    total += masses[v];
  }
  for (let v = 0; v < V; v++) masses[v] /= total;
  return masses;
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

/** The head whose truth is `base`. */
function headOf(base: Truth): Head {
  const rowsOf = ({ hidden, targets }: Example, gates: Float32Array | null) =>
    Array.from(targets, (_, n) =>
      distribution(hidden.subarray(n * D, (n + 1) * D), { ...base, gates: gates ?? undefined }),
    );
  return {
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
}
const head = headOf(plain);

/** What the served parts gain on fresh text: the expectation over the truth's tokens in `contexts` drawn contexts. */
function servedGain(truth: Truth, { gates, bias }: Awaited<ReturnType<typeof fitOwnAdapter>>, contexts = 5000): number {
  const dense = new Float32Array(V);
  bias?.ids.forEach((id, i) => {
    dense[id] = bias.values[i];
  });
  const applied: Truth = { bias: dense, gates: gates ?? undefined };
  let nats = 0;
  for (let n = 0; n < contexts; n++) {
    const h = floats(D, 1);
    const [adapted, base] = [distribution(h, applied), distribution(h, plain)];
    distribution(h, truth).forEach((p, v) => {
      nats += (p * Math.log(adapted[v] / base[v])) / contexts;
    });
  }
  return nats;
}

const cases: [string, Truth, string[]][] = [
  ["a bias", { bias: floats(V, 0.8) }, ["unigram"]],
  ["the centroid's gates", { gates: Float32Array.of(1) }, ["gates"]],
];
test.each(cases)(
  "finds what makes text differ: %s; and reports about what it gains on other text",
  async (_, truth, parts) => {
    const fit = await fitOwnAdapter(draw(24, 120, truth), Float32Array.of(truth.gates ? 1 : 0.3), head);
    const gain = servedGain(truth, fit);
    const kept = fit.parts.filter((part) => part.kept).map(({ name }) => name);
    expect(kept).toEqual(expect.arrayContaining(parts));
    // The final adapter is made of more examples than those that the report was measured with.
    expect(gain).toBeGreaterThan(fit.gain!.ci95[0] - 0.01);
    expect(gain).toBeLessThan(fit.gain!.ci95[1] + 0.03);
  },
);

test("is the base for text that the base knows, at any number of examples: nothing is kept, no gain is reported", async () => {
  for (const examples of [2, 3, 5, 12, 20, 30]) {
    for (let draws = 0; draws < 5; draws++) {
      const fit = await fitOwnAdapter(draw(examples, 60, plain), Float32Array.of(0.3), head);
      expect(fit).toMatchObject({ gates: null, bias: null, gain: null });
      expect(fit.parts.some(({ kept }) => kept)).toBe(false);
    }
  }
});

test("the gain that is reported is on average not above the gain on fresh text, also near the margin", async () => {
  const kinds: [string, () => Truth][] = [
    ["plain", () => plain],
    ["weak bias", () => ({ bias: floats(V, 0.3) })],
    ["weak gates", () => ({ gates: Float32Array.of(0.3) })],
  ];
  const differences: number[] = [];
  for (const [examples, tokens] of [
    [5, 120],
    [12, 60],
  ]) {
    for (const [name, truthOf] of kinds) {
      const draws = name === "plain" ? 15 : 60;
      for (let i = 0; i < draws; i++) {
        const truth = truthOf();
        const fit = await fitOwnAdapter(draw(examples, tokens, truth), Float32Array.of(0.3), head);
        if (fit.gain) differences.push(fit.gain.nats - servedGain(truth, fit, 800));
      }
    }
  }
  const mean = meanOf(differences);
  const squares = differences.reduce((sum, difference) => sum + (difference - mean) ** 2, 0);
  const standardError = Math.sqrt(squares / (differences.length - 1) / differences.length);
  expect(differences.length).toBeGreaterThan(60);
  expect(mean).toBeLessThanOrEqual(standardError);
});

test("five examples of text that clearly differs are enough for most draws, and three can be", async () => {
  const adapted = async (examples: number, spread: number) => {
    let count = 0;
    for (let i = 0; i < 40; i++) {
      const fit = await fitOwnAdapter(draw(examples, 120, { bias: floats(V, spread) }), null, head);
      if (fit.gain) count++;
    }
    return count;
  };
  const counts = { five: await adapted(5, 0.5), three: await adapted(3, 1) };
  expect(counts.five).toBeGreaterThan(25);
  expect(counts.three).toBeGreaterThan(25);
});

test("of two examples the result is the base, however much they differ from it", async () => {
  const fit = await fitOwnAdapter(draw(2, 400, { bias: floats(V, 2) }), Float32Array.of(0.3), head);
  expect(fit).toMatchObject({ gates: null, bias: null, gain: null });
  expect(fit.parts.map(({ kept }) => kept)).toEqual([false, false]);
});

test("nothing of a fold's examples enters what is chosen and made without it, bit for bit", async () => {
  const isRare = (id: number) => id % 9 === 0;
  const rareHead = headOf({ bias: Float32Array.from({ length: V }, (_, id) => (isRare(id) ? -12 : 0)) });
  const differing = { bias: floats(V, 0.8) };
  const common = draw(25, 60, differing).map(({ hidden, targets }) => ({
    hidden,
    targets: targets.map((id) => (isRare(id) ? 1 : id)),
  }));
  const isHeldOut = (example: number) => example % 5 === 2;
  // Tokens that no other example has, and hidden states of another scale.
  const strange = common.map(({ hidden, targets }, i) =>
    isHeldOut(i) ? { hidden: hidden.map((x) => 3 * x + 1), targets: targets.map((_, n) => 9 * (n % 6)) } : common[i],
  );
  const madeOf = async (texts: readonly Example[]) => {
    const surveys = await Promise.all(texts.map((example) => rareHead.survey(example, null)));
    const parts = new FoldParts(await observe(texts, rareHead, null, surveys));
    const { support } = parts.observed;
    const tokens = texts.map(({ targets }) => targets.length);
    const bias = parts.bias([2]);
    return {
      support: [...support],
      made: {
        chosen: choose({ tokens, gateGains: null, on: () => parts }, 2),
        bias: [...support].map((id, m) => [id, bias[m]]).filter(([, value]) => value !== 0),
      },
    };
  };
  const [one, other] = [await madeOf(common), await madeOf(strange)];
  expect(other.support).not.toEqual(one.support);
  expect(one.made.chosen.parts.map(({ kept }) => kept)).toEqual([true]);
  expect(other.made).toEqual(one.made);
});

test("the interval over examples is Student's t", () => {
  const { nats, ci95 } = gainOver([1, 2, 3].map((nats) => ({ tokens: 1, nats })));
  expect(nats).toBe(2);
  // t(2 degrees of freedom) · s / √n
  expect(ci95[0]).toBeCloseTo(2 - 4.303 / Math.sqrt(3), 9);
  expect(ci95[1]).toBeCloseTo(2 + 4.303 / Math.sqrt(3), 9);
});

test("is deterministic", async () => {
  const examples = draw(20, 60, { bias: floats(V, 0.8) });
  const fitted = () => fitOwnAdapter(examples, Float32Array.of(0.3), head);
  expect(await fitted()).toEqual(await fitted());
});

function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
