/**
 * `chameleon-edge/client/ai-sdk`: the extension for the Vercel AI SDK. For a provider that `createOpenAICompatible` made with
 * the name "chameleon": what to ask as `providerOptions`, and what answered as `providerMetadata`.
 */
import type { ChameleonBlock, ChameleonRequest, ChameleonRequestFields } from "./extension.ts";

export type { ChameleonBlock, ChameleonRequest, Expert } from "./extension.ts";

/** The name of the provider, which options and metadata stand under. */
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
  // Absent fields are no JSON.
  return { [providerName]: JSON.parse(JSON.stringify({ ...others, chameleon })) as JsonObject };
}

/** What answered: of a result's `providerMetadata`. undefined where the provider has no `metadataExtractor`. */
export function chameleonOf(
  providerMetadata: Record<string, unknown> | undefined,
): Partial<ChameleonBlock> | undefined {
  return providerMetadata?.[providerName] as Partial<ChameleonBlock> | undefined;
}

/** `createOpenAICompatible({ name: providerName, metadataExtractor, … })` puts the answer's block into `providerMetadata`. */
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

/** The block of the first choice; the AI SDK asks for one. */
function blockOf(answer: unknown): JsonObject | undefined {
  const { choices } = (answer ?? {}) as { choices?: { chameleon?: JsonObject }[] };
  return choices?.[0]?.chameleon;
}
