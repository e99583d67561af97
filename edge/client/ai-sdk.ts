/** The `chameleon` extension for the Vercel AI SDK. The provider must come from `createOpenAICompatible`, named "chameleon". */
import type { ChameleonBlock, ChameleonRequest, ChameleonRequestFields } from "./extension.ts";

export type { ChameleonBlock, ChameleonRequest, Expert } from "./extension.ts";

/** The provider's name, which is the key of its options and metadata. */
export const providerName = "chameleon";

type Json = null | string | number | boolean | Json[] | { [key: string]: Json };
interface JsonObject {
  [key: string]: Json;
}

/** `providerOptions` of a call: `generateText({ model, prompt, providerOptions: chameleonOptions({ adapter: "nearest" }) })`. */
export function chameleonOptions(
  chameleon: ChameleonRequest,
  others: Omit<ChameleonRequestFields, "chameleon"> = {},
): { [providerName]: JsonObject } {
  // Drops undefined fields, which JSON does not have.
  return { [providerName]: JSON.parse(JSON.stringify({ ...others, chameleon })) as JsonObject };
}

export function chameleonOf(
  providerMetadata: Record<string, unknown> | undefined,
): Partial<ChameleonBlock> | undefined {
  return providerMetadata?.[providerName] as Partial<ChameleonBlock> | undefined;
}

/** `createOpenAICompatible({ name: providerName, metadataExtractor, … })` puts the answer's object `chameleon` into `providerMetadata`. */
export const metadataExtractor = {
  async extractMetadata({ parsedBody }: { parsedBody: unknown }) {
    return metadata(blockOf(parsedBody));
  },
  createStreamExtractor() {
    let block: JsonObject | undefined;
    return {
      processChunk(parsedChunk: unknown) {
        const found = blockOf(parsedChunk);
        if (found) block = { ...block, ...found };
      },
      buildMetadata: () => metadata(block),
    };
  },
};

function metadata(block: JsonObject | undefined): { [providerName]: JsonObject } | undefined {
  return block && { [providerName]: block };
}

function blockOf(answer: unknown): JsonObject | undefined {
  const { choices } = (answer ?? {}) as { choices?: { chameleon?: JsonObject }[] };
  return choices?.[0]?.chameleon;
}
