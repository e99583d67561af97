/** Answers by evidence, end to end: what they are a mixture of, and that what is scored is what is served. */
import { readFile } from "node:fs/promises";
import { beforeAll, describe, expect, test } from "vitest";
import { isAutoOff, parseManifest } from "../../shared/artifacts/manifest.ts";
import { readTensorFile } from "../../shared/artifacts/tensor-file.ts";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { defaultCalibration } from "../../shared/math/evidence.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { sharedStack } from "../support/shared-stack.ts";
import { smallArtifacts } from "../support/small-base.ts";
import type { RunningStack } from "../support/stack.ts";

const austen = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be";
const perl =
  "=head1 NAME\n\nperlfunc - Perl builtin functions\n\n=head1 DESCRIPTION\n\nThe functions in this section can serve as terms";

let stack: RunningStack;
let tokenizer: Tokenizer;
let floor: number;
/** A centroid with an adapter that is not off. */
let centroid: string;
beforeAll(async () => {
  tokenizer = Tokenizer.fromTensors(
    readTensorFile(await readFile(`${smallArtifacts}/tokenizer.safetensors`), "tokenizer.safetensors"),
  );
  const { evidence, centroids } = parseManifest(await readFile(`${smallArtifacts}/manifest.json`, "utf8"));
  ({ floor } = evidence ?? defaultCalibration);
  centroid = centroids.find((one) => !isAutoOff(one))!.id;
  stack = await sharedStack("mixtures");
}, 60_000);

async function complete(body: object): Promise<CompletionResponse> {
  const response = await stack.post("/v1/completions", { temperature: 0, max_tokens: 8, ...body });
  expect(response.status, await response.clone().text()).toBe(200);
  return response.json() as Promise<CompletionResponse>;
}

const blockOf = async (body: object) => (await complete({ chameleon: {}, ...body })).choices[0].chameleon!;
const logprobsOf = async (body: object) => (await complete({ logprobs: 0, ...body })).choices[0].logprobs!;

describe("the default", () => {
  test.each([
    ["prose", austen],
    ["a manual", perl],
    ["one word", "The"],
    ["one token", [0]],
  ])("answers %s with experts whose weights add up to 1, the base at its floor or above", async (_, prompt) => {
    const { mode, experts, evidence } = await blockOf({ prompt });
    expect(mode).toBe("evidence");
    expect(experts!.reduce((sum, { weight }) => sum + weight, 0)).toBeCloseTo(1, 3);
    expect(experts![0].id).toBe("base");
    expect(experts![0].weight).toBeGreaterThanOrEqual(floor - 1e-4);
    expect(evidence!.tokens).toBeLessThanOrEqual(16);
  });

  test("gives a choice the same text alone and among others", async () => {
    for (const temperature of [0, 0.9]) {
      const request = { prompt: austen, seed: 5, temperature, chameleon: {} };
      const [alone] = (await complete(request)).choices;
      const together = (await complete({ ...request, prompt: [austen, perl], n: 3 })).choices;
      expect(together[0].text).toBe(alone.text);
      expect(together[0].chameleon?.experts).toEqual(alone.chameleon?.experts);
    }
  });
});

test("`nearest` is the nearest centroid's adapter at full strength", async () => {
  const nearest = await complete({ prompt: perl, logprobs: 0, chameleon: { adapter: "nearest" } });
  const { centroid: id, experts } = nearest.choices[0].chameleon!;
  const forced = await complete({ prompt: perl, logprobs: 0, model: `gpt2:${id}` });
  expect(nearest.choices[0].logprobs).toEqual(forced.choices[0].logprobs);
  expect(experts).toEqual([{ id, weight: 1, hash: expect.any(String) }]);
});

describe("evidence_tokens", () => {
  test.each([8, 16, 20])("%i: what is scored after them is what would be served", async (N) => {
    const ids = tokenizer.encode(perl).slice(0, N);
    const cut = await complete({ prompt: ids, max_tokens: 12, logprobs: 0, chameleon: {} });
    const { tokens, token_logprobs } = cut.choices[0].logprobs!;
    const said = tokens.flatMap((token) => tokenizer.encode(token));
    expect(said).toHaveLength(tokens.length);
    const scored = await complete({
      ...{ prompt: [...ids, ...said], max_tokens: 0, echo: true, logprobs: 0 },
      chameleon: { evidence_tokens: N },
    });
    const [{ chameleon: ofScored }, { chameleon: ofCut }] = [scored.choices[0], cut.choices[0]];
    expect(ofScored?.experts).toEqual(ofCut?.experts);
    expect(ofScored?.evidence).toEqual(ofCut?.evidence);
    const all = scored.choices[0].logprobs!.token_logprobs;
    const differences = all.slice(N).map((logprob, i) => Math.abs(logprob! - token_logprobs[i]!));
    expect(differences).toHaveLength(12);
    expect(Math.max(...differences)).toBeLessThan(1e-3);
    // The evidence itself is scored by the base.
    const base = await logprobsOf({ prompt: ids, model: "gpt2", max_tokens: 0, echo: true });
    for (let i = 1; i < N; i++) expect(all[i]).toBeCloseTo(base.token_logprobs[i]!, 3);
  });
});

describe("a list of experts", () => {
  test("with weights is served in their proportions: the base alone is the base", async () => {
    const scores = { prompt: perl, max_tokens: 0, echo: true };
    const only = await logprobsOf({ ...scores, chameleon: { adapter: [{ id: "base", weight: 2 }] } });
    const base = await logprobsOf({ ...scores, model: "gpt2" });
    only.token_logprobs.slice(1).forEach((logprob, i) => {
      expect(logprob).toBeCloseTo(base.token_logprobs[i + 1]!, 3);
    });
    const adapter = [
      { id: "base", weight: 1 },
      { id: centroid, weight: 1 },
    ];
    const mixed = await complete({ ...scores, logprobs: 0, chameleon: { adapter } });
    const { chameleon } = mixed.choices[0];
    expect(chameleon).toMatchObject({ mode: "fixed", evidence: null });
    expect(chameleon?.experts).toMatchObject([{ weight: 0.5 }, { id: centroid, weight: 0.5 }]);
    const forced = await logprobsOf({ ...scores, model: `gpt2:${centroid}` });
    mixed.choices[0].logprobs!.token_logprobs.slice(1).forEach((logprob, i) => {
      const [ofBase, ofAdapter] = [base, forced].map((one) => one.token_logprobs[i + 1]!);
      expect(logprob).toBeGreaterThan((ofBase + ofAdapter) / 2 - 1e-3);
    });
  });

  test("without weights is weighed by the prompt, an adapter of one's own among them", async () => {
    const words = "el mar la noche una casa del río que viene con las manos vacías".split(" ");
    const text = (start: number) =>
      Array.from({ length: 60 }, (_, i) => words[(i * i + start) % words.length]).join(" ");
    const examples = Array.from({ length: 12 }, (_, i) => text(i));
    const made = await stack.post("/v1/adapters", { name: "poema", examples });
    expect(made.status, await made.clone().text()).toBe(201);
    const adapter = [{ id: "base" }, { id: centroid }, { id: "poema" }];
    const weightOf = async (prompt: string) => {
      const { experts, mode } = await blockOf({ prompt, chameleon: { adapter } });
      expect(mode).toBe("evidence");
      expect(experts!.map(({ id }) => id)).toEqual(["base", "poema", centroid]);
      return experts![1].weight;
    };
    const [own, other] = [await weightOf(text(20)), await weightOf(perl)];
    expect(own).toBeGreaterThan(2 * other);
  });
});
