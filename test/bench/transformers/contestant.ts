/** Transformers.js as a contestant: its own `generate()` over a local folder with an exported graph. */
import { join } from "node:path";
import { AutoModelForCausalLM, env, Tensor, type TextStreamer } from "@huggingface/transformers";
import { BatchMeter, type Contestant } from "../contestant.ts";
import { cached, gpt2Config, gpt2Tensors } from "../model.ts";
import { buildExportGraph, type ExportFormat, exportFiles } from "./export-graph.ts";

/** Writes the model's folder where it is missing. Returns its parent and its name. */
async function exportFolder(format: ExportFormat): Promise<{ parent: string; name: string }> {
  const name = "transformers";
  await cached(`${name}/${exportFiles[format]}`, async () => buildExportGraph(gpt2Config, await gpt2Tensors(), format));
  const config = {
    model_type: "gpt2",
    architectures: ["GPT2LMHeadModel"],
    vocab_size: gpt2Config.vocabularySize,
    n_embd: gpt2Config.hiddenSize,
    n_layer: gpt2Config.layers,
    n_head: gpt2Config.heads,
    n_positions: gpt2Config.contextTokens,
  };
  const file = await cached(`${name}/config.json`, () => new TextEncoder().encode(JSON.stringify(config)));
  return { parent: join(file, "../.."), name };
}

export async function openTransformers(dtype: ExportFormat, threads: number): Promise<Contestant> {
  const { parent, name } = await exportFolder(dtype);
  env.localModelPath = parent;
  env.allowRemoteModels = false;
  const model = await AutoModelForCausalLM.from_pretrained(name, {
    dtype,
    device: "cpu",
    local_files_only: true,
    session_options: { intraOpNumThreads: threads, interOpNumThreads: 1 },
  });
  const generate = async (prompts: number[][], tokens: number, onTokens: () => void) => {
    const dims = [prompts.length, prompts[0].length];
    const ids = BigInt64Array.from(prompts.flat(), BigInt);
    let calls = 0;
    const streamer = {
      // The first call hands back the prompt, before anything has run.
      put: () => calls++ > 0 && onTokens(),
      end: () => {},
    };
    const output = await model.generate({
      inputs: new Tensor("int64", ids, dims),
      attention_mask: new Tensor("int64", new BigInt64Array(ids.length).fill(1n), dims),
      max_new_tokens: tokens,
      do_sample: false,
      // These two methods are all that is called; the declaration asks for those of a printer of text too.
      streamer: streamer as unknown as TextStreamer,
    });
    return (output as Tensor).tolist() as bigint[][];
  };
  return {
    async measure(prompts, steps) {
      const meter = new BatchMeter();
      await generate(prompts, steps + 1, () => meter.token());
      return meter.result();
    },
    async firstIds(prompts) {
      const rows = await generate(prompts, 1, () => {});
      return rows.map((row) => Number(row[prompts[0].length]));
    },
    release: async () => {
      await model.dispose();
    },
  };
}
