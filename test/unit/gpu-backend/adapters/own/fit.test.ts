/** Fits over a small random head: gradients, a task that can be learnt, and one that cannot. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { changeOf, type Example, fitOwnAdapter } from "../../../../../gpu-backend/adapters/own/fit.ts";
import { type Delta, type FitSession, openFitSession } from "../../../../../gpu-backend/runtime/fit-session.ts";
import { seededRandom } from "../../../../support/steps.ts";

const [V, D, R, Q] = [80, 16, 8, 3];
const seed = 36;
const random = seededRandom(seed);
const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
const floats = (length: number, spread = 1) => Float32Array.from({ length }, () => spread * normal());
const at = (count: number) => Int32Array.from({ length: count }, () => Math.floor(random() * V));

let session: FitSession;
beforeAll(async () => {
  const bank = { gates: Q, a: floats(Q * D, 0.2), a0: Float32Array.of(0, 0, 1), b: floats(Q * D, 0.2) };
  session = await openFitSession(floats(V * D, 0.5), D, { bank, gates: floats(Q, 0.5) }, 1);
});
afterAll(() => session.release());

test("the gradients of a step are those of its loss", async () => {
  const [N, C] = [7, 11];
  const targets = at(N).map((id) => id % C);
  const input = { hidden: floats(N * D), logits: floats(N * C), targets, rows: floats(C * D) };
  const delta: Delta = { a: floats(R * D, 0.3), b: floats(R * D, 0.3), c: floats(D, 0.3) };
  const { gradients } = await session.step({ ...input, ...delta });
  const lossAt = async (name: keyof Delta, i: number, by: number) => {
    const moved = { ...delta, [name]: delta[name].map((x, j) => (j === i ? x + by : x)) };
    const { nll } = await session.step({ ...input, ...moved });
    return nll.reduce((sum, loss) => sum + loss, 0) / N;
  };
  const by = 1e-2;
  for (const name of ["a", "b", "c"] as const) {
    for (const i of [0, 5, D - 1, gradients[name].length - 1]) {
      const slope = ((await lossAt(name, i, by)) - (await lossAt(name, i, -by))) / (2 * by);
      expect(gradients[name][i], `${name}[${i}], seed ${seed}`).toBeCloseTo(slope, 3);
    }
  }
});

/** Examples whose next token is 3 or 4: by the sign of the state's first value, or with `isNoise` at random. */
function labelled(count: number, isNoise = false): Example[] {
  return Array.from({ length: count }, () => {
    const hidden = floats(D);
    const side = isNoise ? random() < 0.5 : hidden[0] > 0;
    return { hidden, targets: Int32Array.of(side ? 3 : 4) };
  });
}

async function gainOn(examples: readonly Example[], delta: Delta): Promise<number> {
  let sum = 0;
  for (const { hidden, targets } of examples) {
    const before = await session.survey(hidden, null, targets);
    const after = await session.survey(hidden, changeOf(delta, hidden), targets);
    sum += after.logprobs[0] - before.logprobs[0];
  }
  return sum / examples.length;
}

test("a task is learnt, its gain lies in the interval that is told, and equal examples give an equal adapter", async () => {
  const examples = labelled(60);
  const fit = await fitOwnAdapter(examples, null, session);
  expect(fit.gain!.ci95[0]).toBeGreaterThan(1);
  expect(fit.losses.at(-1)!.heldOut).toBeLessThan(fit.losses[0].heldOut);
  const fresh = labelled(200);
  const gain = await gainOn(fresh, fit.delta!);
  expect(gain).toBeGreaterThan(fit.gain!.ci95[0] - 0.3);
  let right = 0;
  for (const { hidden, targets } of fresh) {
    const { topIds } = await session.survey(hidden, changeOf(fit.delta!, hidden), targets);
    if (topIds[0] === targets[0]) right++;
  }
  expect(right, `of 200, seed ${seed}`).toBeGreaterThan(160);
  expect((await fitOwnAdapter(examples, null, session)).delta).toEqual(fit.delta);
});

/** Examples drawn from the head's own probabilities, so that nothing is left to learn. */
async function expectedByHead(count: number): Promise<Example[]> {
  const examples: Example[] = [];
  for (let i = 0; i < count; i++) {
    const hidden = floats(4 * D);
    const { adapted } = await session.survey(hidden, null, new Int32Array(4));
    const logits = await session.logits(adapted, session.embedding);
    const targets = Int32Array.from({ length: 4 }, (_, n) => {
      const masses = logits.subarray(n * V, (n + 1) * V).map(Math.exp);
      let left = random() * masses.reduce((sum, mass) => sum + mass, 0);
      const drawn = masses.findIndex((mass) => {
        left -= mass;
        return left < 0;
      });
      return Math.max(0, drawn);
    });
    examples.push({ hidden, targets });
  }
  return examples;
}

test("text that the head expects already makes no adapter", async () => {
  for (const count of [3, 8, 30]) {
    const { delta } = await fitOwnAdapter(await expectedByHead(count), null, session);
    expect(delta, `${count} examples, seed ${seed}`).toBeNull();
  }
});

test("labels without a pattern teach only how frequent each is", async () => {
  const fit = await fitOwnAdapter(labelled(60, true), null, session);
  const fresh = labelled(300, true);
  const gain = await gainOn(fresh, fit.delta!);
  const best = fresh.length * Math.log(0.5);
  let base = 0;
  for (const { hidden, targets } of fresh) base += (await session.survey(hidden, null, targets)).logprobs[0];
  expect(gain * fresh.length).toBeLessThan(best - base);
});

test("examples given for validation are held out and not trained on", async () => {
  const examples = labelled(40);
  const helpful = await fitOwnAdapter(examples, labelled(20), session);
  expect(helpful.gain).toMatchObject({ tokens: 20 });
  expect(helpful.delta).not.toBeNull();
  // The tokens that are likeliest without an adapter.
  const contrary = labelled(20).map(async ({ hidden }) => {
    return { hidden, targets: (await session.survey(hidden, null, at(1))).topIds.slice(0, 1) };
  });
  expect((await fitOwnAdapter(examples, await Promise.all(contrary), session)).delta).toBeNull();
});

test("a fit ends when a step is refused", async () => {
  let steps = 0;
  const refusing: typeof session = {
    ...session,
    step: (input) => (++steps > 20 ? Promise.reject(new Error("cancelled")) : session.step(input)),
  };
  await expect(fitOwnAdapter(labelled(20), null, refusing)).rejects.toThrow("cancelled");
  expect(steps).toBe(21);
});
