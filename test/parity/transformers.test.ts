/**
 * The embedded model as it is served, compared with Transformers.js, an independent implementation: tokenizer, chat templates and
 * generation. Transformers.js reads tokenizer.json and a graph in a layout of its own.
 */
import { cp, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  AutoModelForCausalLM,
  AutoTokenizer,
  env,
  type PreTrainedTokenizer,
  type Tensor,
} from "@huggingface/transformers";
import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { readTensorFile } from "../../shared/artifacts/tensor-file.ts";
import type { ChatMessage } from "../../shared/contracts/chat.ts";
import { ChatTemplate } from "../../shared/tokenizer/chat-template.ts";
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { chatTemplates } from "../support/chat-templates.ts";
import { createEngineHarness, sequenceRequest } from "../support/engine-harness.ts";
import { buildExportGraph } from "../support/export-graph.ts";
import { fuzzText } from "../support/fuzz-text.ts";
import { oracleTexts } from "../support/oracle-texts.ts";
import { smallBase } from "../support/small-base.ts";
import { createStepRunner } from "../support/step-runner.ts";
import { maxDifference, noPast, randomBank, seededRandom, stepOf } from "../support/steps.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { trialConversations } from "../support/trial-conversations.ts";

const seed = 20_261_126;
/** How much logits of about 10 may differ, as both implementations compute in float32, but in a different order. */
const tolerance = 1e-4;
const prompts = [
  "The",
  "Once upon a time there was a small house",
  "def main():\n    return",
  "In 1969, the first people on the moon said that",
  "Dear friends,\n\nI am writing to",
];

const scratch = temporaryFolder();
let theirs: PreTrainedTokenizer;
let ours: Tokenizer;
let artifacts: Awaited<ReturnType<typeof readArtifacts>>;

beforeAll(async () => {
  artifacts = await readArtifacts(smallBase);
  ours = artifacts.tokenizer;
  await mkdir(join(scratch, "mini/onnx"), { recursive: true });
  for (const name of ["config.json", "tokenizer.json", "tokenizer_config.json"]) {
    await cp(join(smallBase, name), join(scratch, "mini", name));
  }
  env.allowRemoteModels = false;
  env.localModelPath = scratch;
  theirs = await AutoTokenizer.from_pretrained("mini", { local_files_only: true });
});

const theirIds = (text: string) => theirs.encode(text, { add_special_tokens: false });

test("token ids of 4,000 texts are the same", () => {
  const random = seededRandom(seed);
  // These texts leave out the characters and the special token of the two tests below.
  const fuzzed = Array.from({ length: 3000 }, () =>
    fuzzText(random)
      .toWellFormed()
      .replaceAll(/[\u0085\ufeff]/g, "")
      .replaceAll("<|endoftext|>", ""),
  );
  const texts = [...oracleTexts(1000), ...fuzzed];
  const mismatches = texts.filter((text) => ours.encode(text).join() !== theirIds(text).join());
  expect(mismatches).toEqual([]);
});

test("token ids of text that spells the end of text are text here, and the special token there", () => {
  const { endOfTextId } = ours.roles;
  expect(ours.encode("a<|endoftext|>b")).not.toContain(endOfTextId);
  expect(theirIds("a<|endoftext|>b")).toEqual([...ours.encode("a"), endOfTextId, ...ours.encode("b")]);
});

test.each([
  ["U+0085 is whitespace here, as in Unicode and tiktoken, and none there", "  \u0085x"],
  ["U+FEFF is none here, as in Unicode and tiktoken, and whitespace there", "\ufeff're"],
])("token ids %s", (_, text) => {
  expect(theirIds(text)).not.toEqual(ours.encode(text));
  expect(theirs.decode(theirIds(text))).toBe(ours.decode(ours.encode(text)));
});

describe("token ids of conversations", () => {
  // Transformers.js takes the date from the system, in the local time zone. Ours is a parameter, read in UTC.
  const now = new Date(2026, 1, 3, 12);
  const nowMs = now.getTime() - now.getTimezoneOffset() * 60_000;
  afterEach(() => void vi.useRealTimers());

  test.each(Object.entries(chatTemplates))("are the same by the template %s, refusals too", (_, chat_template) => {
    vi.useFakeTimers({ toFake: ["Date"], now });
    const template = new ChatTemplate(chat_template, ours);
    const outcome = (run: () => unknown) => {
      try {
        return run();
      } catch (error) {
        return `refused: ${(error as Error).message}`;
      }
    };
    const options = { chat_template, add_generation_prompt: true, return_tensor: false, return_dict: false };
    for (const { name, messages } of trialConversations) {
      const wanted = outcome(() => theirs.apply_chat_template(messages as ChatMessage[], options));
      expect(
        outcome(() => template.encode(messages, nowMs)),
        name,
      ).toEqual(wanted);
    }
  });
});

test("the model has the same logits at every position, and the same greedy text", async () => {
  const { config } = artifacts.model;
  const file = readTensorFile(await readFile(join(smallBase, "model.safetensors")));
  const tensors = new Map([...file].map(([name, one]) => [name.replace("transformer.", ""), one]));
  const graph = buildExportGraph(config, tensors);
  await writeFile(join(scratch, "mini/onnx/model.onnx"), graph);
  const model = await AutoModelForCausalLM.from_pretrained("mini", {
    ...{ dtype: "fp32", device: "cpu", local_files_only: true },
    session_options: { intraOpNumThreads: 1, interOpNumThreads: 1 },
  });
  // All gates are 0, so the adapter adds nothing.
  const bank = randomBank(config, 2, 1, seededRandom(seed));
  const runner = await createStepRunner({ ...artifacts.model, bank, threads: 1 });
  const row = (tokenIds: number[]) => ({ tokenIds, gates: new Float32Array(bank.gates), ...noPast(config) });
  const V = config.vocabularySize;
  let worst = 0;
  for (const prompt of prompts) {
    const inputs = theirs(prompt);
    const { logits } = await model(inputs);
    const ids = ours.encode(prompt);
    expect(logits.dims).toEqual([1, ids.length, V]);
    for (let length = 1; length <= ids.length; length++) {
      const { scores: served } = await runner.run(stepOf(config, [row(ids.slice(0, length))]));
      worst = Math.max(worst, maxDifference(served!, logits.data.subarray((length - 1) * V, length * V)));
    }
  }
  expect(worst).toBeLessThan(tolerance);

  const { engine, tokensOf, finish } = createEngineHarness({ runner, textPieceOf: (id) => ours.textPieceOf(id) });
  const tokens = 40;
  for (const [i, prompt] of prompts.entries()) {
    const sampling = { temperature: 0 };
    await engine.submit(null, [sequenceRequest(`s${i}`, ours.encode(prompt), { maxTokens: tokens, sampling })]);
  }
  await finish();
  for (const [i, prompt] of prompts.entries()) {
    const output = await model.generate({ ...theirs(prompt), max_new_tokens: tokens, do_sample: false });
    const [text] = theirs.batch_decode(output as Tensor, { skip_special_tokens: true });
    const served = ours.decode(tokensOf(`s${i}`).filter((id) => id !== ours.roles.endOfTextId));
    expect(prompt + served).toBe(text);
  }
  await runner.release();
  await model.dispose();
});
