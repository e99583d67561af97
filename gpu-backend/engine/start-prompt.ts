/**
 * An engine answers this fixed prompt before it takes traffic. The hash of the answer's numbers is the numerics fingerprint: backends
 * with equal fingerprints continue each other's sequences bit for bit. The hash depends on weights, weight format, device, driver,
 * instruction set, ONNX Runtime's version and the graph, but not on the number of threads. A difference that rounding hides is not
 * detected.
 */
import { createHash } from "node:crypto";
import type { Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
import type { AdapterSource } from "../adapters/adapter.ts";
import { AdapterCache } from "../adapters/generated/adapter-cache.ts";
import { Engine } from "./engine.ts";
import type { EngineParts } from "./engine-parts.ts";

/** More than a chunk has tokens or a vector register has lanes, and not a multiple of either. */
const promptTokens = 141;
const generatedTokens = 8;
const hashDigits = 16;

/** Returns the hash. Throws an Error if the base cannot generate, for example because float16 overflows. */
export async function answerStartPrompt(
  parts: Pick<EngineParts, "runner" | "limits" | "textPieceOf" | "now">,
  source: AdapterSource,
  centroidId: string | null,
): Promise<string> {
  const hash = createHash("sha256");
  const emit = (frames: Frame[]) => {
    for (const frame of frames) {
      if (frame.type === "error" && frame.id !== "mixture") {
        throw new Error(`the engine cannot generate: ${frame.message}`);
      }
      hash.update(JSON.stringify(numbersOf(frame)));
    }
  };
  const adapters = new AdapterCache(source, parts.now);
  const engine = new Engine({ ...parts, adapters, prefixCache: null, emit });
  const { vocabularySize, contextTokens, stopIds } = parts.runner.config;
  const length = Math.min(promptTokens, contextTokens - generatedTokens);
  const promptIds = Array.from({ length }, (_, i) => (i * i * 31 + 7 * i) % vocabularySize);
  for (const request of requestsOf(promptIds, stopIds[0], centroidId)) {
    await engine.submit(null, [request]);
    while (engine.busy) await engine.step();
  }
  return hash.digest("hex").slice(0, hashDigits);
}

function requestsOf(promptIds: number[], stopId: number, centroidId: string | null): SequenceRequest[] {
  const base: SequenceRequest = {
    ...{ id: "base", tenant: "start", promptIds, continuedIds: [], maxTokens: generatedTokens, compare: false },
    sampling: { temperature: 0.8, seed: 1, logprobs: 5, ignore_eos: true },
    promptLogprobs: true,
  };
  const token = { ...base, id: "token", promptIds: [stopId], maxTokens: 1, promptLogprobs: false };
  if (centroidId === null) return [token, base];
  const evidence = { tokens: promptIds.length, temper: 0.1, floor: 0.1 };
  const mixture = { base: 0.5, adapters: [{ centroidId, weight: 0.5 }], evidence };
  return [token, base, { ...base, id: "mixture", promptLogprobs: false, compare: true, mixture }];
}

function numbersOf(frame: Frame): unknown {
  if (frame.type === "error") return frame.kind;
  return frame.type === "done" ? (frame.mixture ?? null) : frame;
}
