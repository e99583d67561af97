/** An own adapter of the known text of a kind, each excerpt an example of which every token is learnt. Kept on disk. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promptEmbedding } from "../../../../shared/math/assignment.ts";
import { packOwnAdapter, unpackOwnAdapter } from "../../../adapters/own/artifact.ts";
import { fitOwnAdapter } from "../../../adapters/own/fit.ts";
import { nullIfMissing, writeWhole } from "../../../files.ts";
import { type FitSession, openFitSession } from "../../../runtime/fit-session.ts";
import type { ServedBank } from "../../../training/bank/served-bank.ts";
import type { TrainingBase } from "../../../training/base.ts";
import type { OwnAdapter } from "../plans.ts";
import type { Text } from "../texts.ts";
import type { StateCache, TextStates } from "./states.ts";

/** Above the static adapter, as backends fit. */
export function openFits(base: TrainingBase, { adapters }: ServedBank, threads: number): Promise<FitSession> {
  const fixed = { bank: adapters.bank, gates: adapters.network.staticGates };
  return openFitSession(base.tokenEmbedding, base.config.hiddenSize, fixed, threads);
}

/** null where the fit keeps none. */
export async function ownAdapterOf(
  excerpts: readonly Text[],
  { hidden }: Pick<TextStates, "hidden">,
  { fits, served, cache }: { fits: FitSession; served: ServedBank; cache: StateCache },
): Promise<OwnAdapter | null> {
  const { manifestHash, manifest, table } = served;
  const { hiddenSize: D } = cache;
  const hash = createHash("sha256").update(`${cache.key} ${manifestHash}`);
  let at = 0;
  const examples = excerpts.map(({ ids }) => {
    hash.update(Int32Array.of(ids.length, ...ids));
    const own = hidden.subarray(at * D, (at + ids.length - 1) * D);
    at += ids.length;
    return { hidden: own, targets: Int32Array.from(ids.slice(1)) };
  });
  const path = join(cache.directory, `own-adapter-${hash.digest("hex").slice(0, 16)}.safetensors`);
  let bytes: Uint8Array | null = await readFile(path).catch(nullIfMissing);
  if (!bytes) {
    const { delta } = await fitOwnAdapter(examples, null, fits, (_, work) => work());
    bytes = packOwnAdapter(delta, manifestHash);
    await writeWhole(path, bytes);
  }
  const delta = unpackOwnAdapter(bytes, { manifestHash, hiddenSize: D });
  if (!delta) return null;
  const sum = new Float32Array(table.dimensions);
  for (const { ids } of excerpts) {
    promptEmbedding(ids.slice(0, manifest.embedding.prefixTokens), table).forEach((value, p) => {
      sum[p] += value;
    });
  }
  const length = Math.hypot(...sum);
  return { delta, centroid: sum.map((value) => value / length) };
}
