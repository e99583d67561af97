/** The client's types, which `npm run check` compiles. */
import "../../../edge/client/openai.ts";
import type OpenAI from "openai";
import { expect, expectTypeOf, test } from "vitest";
import { chameleonOf, chameleonOptions, metadataExtractor } from "../../../edge/client/ai-sdk.ts";
import type { ChameleonBlock, ChameleonRequest } from "../../../edge/client/extension.ts";
import { completionRequestSchema } from "../../../shared/contracts/openai.ts";
import type { ChameleonBlock as AnsweredBlock } from "../../../shared/contracts/responses.ts";

type Block = Partial<ChameleonBlock> | undefined;

test("choices of the openai SDK have the block, whole or streamed", () => {
  expectTypeOf<OpenAI.CompletionChoice["chameleon"]>().toEqualTypeOf<Block>();
  expectTypeOf<OpenAI.ChatCompletion.Choice["chameleon"]>().toEqualTypeOf<Block>();
  expectTypeOf<OpenAI.ChatCompletionChunk.Choice["chameleon"]>().toEqualTypeOf<Block>();
  // The client's type of the `chameleon` block equals the API's, field by field.
  expectTypeOf<ChameleonBlock>().toEqualTypeOf<AnsweredBlock>();
  expectTypeOf<NonNullable<Block>["evidence"]>().toEqualTypeOf<{ nats: number; tokens: number } | null | undefined>();
});

test("requests take the extension, and nothing else in its place", () => {
  type Request = OpenAI.CompletionCreateParamsNonStreaming;
  const chameleon = { adapter: "nearest", compare: true, retrieve: 2, evidence_tokens: 8 } as const;
  const accepted: Request[] = [
    { model: "gpt2:auto", prompt: "a", chameleon },
    { model: "gpt2", prompt: "a", chameleon: { adapter: [{ id: "base" }, { id: "legal" }] }, top_k: 40, min_p: 0.1 },
    { model: "gpt2", prompt: "a", min_tokens: 3, ignore_eos: true, stop_token_ids: [5], repetition_penalty: 1.2 },
    { model: "gpt2", prompt: "a", chameleon: null },
  ];
  // The API accepts every request that the types accept.
  for (const request of accepted) expect(completionRequestSchema.safeParse(request).error).toBeUndefined();
  const refused: Request[] = [
    // @ts-expect-error -- an adapter is named by a string, or a list of experts
    { model: "gpt2", prompt: "a", chameleon: { adapter: 3 } },
    // @ts-expect-error -- a misspelt field
    { model: "gpt2", prompt: "a", chameleon: { adaptor: "off" } },
  ];
  expect(refused).toHaveLength(2);
  expectTypeOf<OpenAI.ChatCompletionCreateParamsStreaming["chameleon"]>().toEqualTypeOf<
    ChameleonRequest | null | undefined
  >();
});

test("options and metadata of the Vercel AI SDK", async () => {
  expect(chameleonOptions({ adapter: "off" }, { top_k: 4 })).toEqual({
    chameleon: { top_k: 4, chameleon: { adapter: "off" } },
  });
  const stream = metadataExtractor.createStreamExtractor();
  const chunkOf = (chameleon: object) => ({ choices: [{ chameleon }] });
  for (const chunk of [{ choices: [] }, chunkOf({ mode: "evidence" }), chunkOf({ similarity: 1 }), null]) {
    stream.processChunk(chunk);
  }
  expect(stream.buildMetadata()).toEqual({ chameleon: { mode: "evidence", similarity: 1 } });
  expect(await metadataExtractor.extractMetadata({ parsedBody: { choices: [] } })).toBeUndefined();
  expectTypeOf(chameleonOf).returns.toEqualTypeOf<Block>();
});
