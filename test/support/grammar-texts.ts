/** Draws random texts under the grammars of schemas, with the small base's vocabulary. */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { readTokenizer } from "../../gpu-backend/engine/artifacts.ts";
import { type GrammarRow, Grammars } from "../../gpu-backend/engine/grammars.ts";
import { sharedPieces } from "../../gpu-backend/engine/vocabulary.ts";
import { parseManifest } from "../../shared/artifacts/manifest.ts";
import { smallArtifacts } from "./small-base.ts";

const manifest = parseManifest(await readFile(path.join(smallArtifacts, "manifest.json"), "utf8"));
export const tokenizer = await readTokenizer(smallArtifacts, manifest);
export const { vocabularySize, stopIds } = manifest.model;
export const grammars = new Grammars(
  () => ({ ...sharedPieces(vocabularySize, (id) => tokenizer.textPieceOf(id)), stopIds }),
  () => performance.now(),
);

export function allowedIds({ allowed }: GrammarRow): number[] {
  return Array.from({ length: vocabularySize }, (_, id) => id).filter((id) => (allowed![id >>> 5] >>> (id & 31)) & 1);
}

/** Opens a grammar for one sequence. `advance` adds a token, and resolves when the allowed next ids are known. */
export async function openRow(form: string, tokens: number[] = [], tenant = "tenant") {
  let changed = Promise.withResolvers<void>();
  const row = await grammars.open({ tenant, form, tokens }, (error) => {
    if (error) changed.reject(error);
    else changed.resolve();
  });
  return {
    row,
    async advance(id: number) {
      changed = Promise.withResolvers();
      row.advance(id);
      await changed.promise;
    },
  };
}

export async function isAdmitted(form: string, text: string): Promise<boolean> {
  const opened = await openRow(form, tokenizer.encode(text)).catch(() => null);
  const isEnd = opened !== null && allowedIds(opened.row).some((id) => stopIds.includes(id));
  opened?.row.close();
  return isEnd;
}

/** Draws a text token by token, tokens that close something more often. `ended`: a stop id came. */
export async function drawn(form: string, random: () => number, most = 60) {
  const { row, advance } = await openRow(form);
  const ids: number[] = [];
  for (let i = 0; i < most; i++) {
    const allowed = allowedIds(row);
    if (allowed.length === 0) throw new Error(`nothing may come next: ${form}`);
    const closing = allowed.filter((id) => stopIds.includes(id) || /^["\]}]/.test(tokenizer.decode([id])));
    const from = closing.length > 0 && random() < 0.4 ? closing : allowed;
    const id = from[Math.floor(random() * from.length)];
    if (stopIds.includes(id)) {
      row.close();
      return { ids, ended: true };
    }
    ids.push(id);
    await advance(id);
  }
  row.close();
  return { ids, ended: false };
}

const strictUtf8 = new TextDecoder("utf-8", { fatal: true });

/** Reads the text as JSON if it `ended`. Throws if the text is not UTF-8 or not JSON. */
export async function drawnValue(form: string, random: () => number): Promise<{ ended: boolean; value: unknown }> {
  const { ids, ended } = await drawn(form, random);
  if (!ended) return { ended, value: undefined };
  return { ended, value: JSON.parse(strictUtf8.decode(Buffer.concat(ids.map((id) => tokenizer.textPieceOf(id))))) };
}
