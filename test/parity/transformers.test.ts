/**
 * The small base's tokenizer and chat templates, compared with Transformers.js, an independent implementation.
 */
import { cp, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { AutoTokenizer, env, type PreTrainedTokenizer } from "@huggingface/transformers";
import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import type { ChatMessage } from "../../shared/contracts/chat.ts";
import { ChatTemplate } from "../../shared/tokenizer/chat-template.ts";
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { chatTemplates } from "../support/chat-templates.ts";
import { fuzzText } from "../support/fuzz-text.ts";
import { oracleTexts } from "../support/oracle-texts.ts";
import { smallBase } from "../support/small-base.ts";
import { seededRandom } from "../support/steps.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { trialConversations } from "../support/trial-conversations.ts";

const seed = 20_261_126;

const scratch = temporaryFolder();
let theirs: PreTrainedTokenizer;
let ours: Tokenizer;

beforeAll(async () => {
  ours = (await readArtifacts(smallBase)).tokenizer;
  await mkdir(join(scratch, "mini"));
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
