import { limits } from "../../shared/contracts/limits.ts";
import type { DocumentField } from "../../shared/contracts/openai.ts";
import { invalidRequest } from "../../shared/errors.ts";
import { promptEmbedding } from "../../shared/math/assignment.ts";
import { partCharacters, partsOf } from "../../shared/tokenizer/text-parts.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import { pause } from "../platform/clock.ts";
import type { NewDocument } from "../tenants/memory-documents.ts";

/** Characters that each document adds to its text's length for yielding, because many short documents take time, too. */
const documentCharacters = 64;

/** Yields to other requests after each part of a text. Throws invalid_request for a document without tokens, or too many tokens in sum. */
export async function encodeDocuments(
  documents: readonly DocumentField[],
  { tokenizer, manifest, table }: Artifacts,
): Promise<{ documents: NewDocument[]; tokens: number }> {
  const { prefixTokens } = manifest.embedding;
  const encoded: NewDocument[] = [];
  let [total, unyielded] = [0, 0];
  for (const [i, { name, text }] of documents.entries()) {
    const param = `documents[${i}]`;
    const sum = new Float32Array(table.dimensions); // [P]
    let tokens = 0;
    unyielded += documentCharacters;
    for (const part of partsOf(text)) {
      const ids = tokenizer.encode(part, limits.memoryTokens - total - tokens);
      tokens += ids.length;
      if (total + tokens > limits.memoryTokens) {
        const message = `documents[0] to ${param} have at least ${total + tokens} tokens, the maximum is ${limits.memoryTokens}`;
        throw invalidRequest(message, "documents");
      }
      for (let start = 0; start < ids.length; start += prefixTokens) {
        promptEmbedding(ids.slice(start, start + prefixTokens), table).forEach((value, p) => {
          sum[p] += value;
        });
      }
      unyielded += part.length;
      if (unyielded < partCharacters / 2) continue;
      unyielded = 0;
      await pause(0);
    }
    if (tokens === 0) throw invalidRequest(`${param} holds no character that the model's vocabulary has`, param);
    total += tokens;
    encoded.push({ name, text, tokens, embedding: new Uint8Array(sum.buffer).toBase64() });
  }
  return { documents: encoded, tokens: total };
}
