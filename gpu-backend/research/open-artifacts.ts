/** Opens a base and artifacts for measurements, at the scales that are served. */
import { withBase } from "../models/base.ts";
import { addEmbedding, type WeightFormat } from "../runtime/products.ts";
import { type Head, openReader } from "../training/bank/reader.ts";
import { readServedBank } from "../training/bank/served-bank.ts";
import { readBase } from "../training/base.ts";

export type OpenArtifacts = Awaited<ReturnType<typeof openArtifacts>>;

/** In the result, `reader` computes log-likelihoods by the base's head with the artifacts' adapters. */
export async function openArtifacts(
  model: string,
  artifacts: string,
  { threads, format }: { threads: number; format: WeightFormat },
) {
  const served = await readServedBank(artifacts);
  const base = await readBase(model);
  return withBase(model, async ({ config, weights }) => {
    const addLogits: Head["addLogits"] = (g, adapted) =>
      addEmbedding({ g, config, weights, format }).baseLogits(adapted);
    const reader = await openReader({ ...config, addLogits }, served.adapters.bank, threads);
    const trunk = await base.openTrunk(threads, format);
    const release = async () => {
      await reader.release();
      await trunk.release();
    };
    return { base, served, trunk, reader, release };
  });
}
