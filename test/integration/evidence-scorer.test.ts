import { afterAll, beforeAll, expect, test } from "vitest";
import { EngineScorer } from "../../gpu-backend/research/evaluation/engine-scorer.ts";
import { staticHeadPlan } from "../../gpu-backend/research/evaluation/serving.ts";
import { scoredTokens } from "../../gpu-backend/research/evaluation/texts.ts";
import { defaultCalibration } from "../../shared/math/evidence.ts";
import { smallBase } from "../support/small-base.ts";

const options = { threads: 1, format: "fp32" } as const;
let scorer: EngineScorer;
let text: number[];

beforeAll(async () => {
  scorer = await EngineScorer.open(smallBase, options);
  const words = "The committee read the report of the harbour master, and the harbour master read it too. ".repeat(8);
  text = scorer.artifacts.tokenizer.encode(words).slice(0, 32 + scoredTokens);
});
afterAll(() => scorer.release());

const scoreOf = async (plan: Parameters<EngineScorer["score"]>[0][number]["plan"]) =>
  (await scorer.score([{ ids: text, scored: scoredTokens, plan }]))[0];

test("a mixture that is all base scores as the base, one that is all adapter as the adapter", async () => {
  const evidence = { tokens: 32, temper: 0, floor: 0 };
  const adapters = [{ centroidId: "c0", weight: 0 }];
  expect(await scoreOf({ adapterId: "c0", mixture: { base: 1, adapters: [], evidence } })).toBeCloseTo(
    await scoreOf({ adapterId: null }),
    3,
  );
  const allAdapter = { base: 0, adapters: [{ ...adapters[0], weight: 1 }] };
  const ofAdapter = await scoreOf({ adapterId: "c0" });
  expect(await scoreOf({ adapterId: "c0", mixture: allAdapter })).toBeCloseTo(ofAdapter, 3);
  expect(ofAdapter).not.toBeCloseTo(await scoreOf({ adapterId: null }), 1);
});

test("scores keep the order of the texts, whatever serves each", async () => {
  const other = text.toReversed();
  const plans = [{ adapterId: null }, { adapterId: "c0" }, staticHeadPlan(32, "c1", defaultCalibration)];
  const asked = [text, other].flatMap((ids) => plans.map((plan) => ({ ids, scored: scoredTokens, plan })));
  const together = await scorer.score(asked);
  for (const [i, one] of asked.entries()) expect(together[i]).toBe((await scorer.score([one]))[0]);
});

test("at full strength an adapter that is switched off is served, too", async () => {
  const off = scorer.artifacts.manifest.centroids.find(({ scale }) => scale === 0)!;
  const full = await EngineScorer.open(smallBase, { ...options, fullStrength: true });
  try {
    const [asBase, asOff] = await full.score([
      { ids: text, scored: scoredTokens, plan: { adapterId: null } },
      { ids: text, scored: scoredTokens, plan: { adapterId: off.id } },
    ]);
    expect(asOff).not.toBeCloseTo(asBase, 1);
    expect(await scoreOf({ adapterId: off.id })).toBeCloseTo(asBase, 3);
  } finally {
    await full.release();
  }
});
