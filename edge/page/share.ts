/** The page's state in the fragment of its address, which browsers do not send to the server. Pure. */

export interface Shared {
  tab: string;
  text: string | null;
  seed: number | null;
}

const mostCharacters = 2000;

export function readShared(hash: string): Shared {
  const fields = new URLSearchParams(hash.replace(/^#/, ""));
  const seed = fields.get("seed") ?? "";
  return {
    tab: fields.get("tab") ?? "",
    text: fields.get("text")?.slice(0, mostCharacters) || null,
    seed: /^\d{1,10}$/.test(seed) && Number(seed) < 2 ** 31 ? Number(seed) : null,
  };
}

export function hashOf({ tab, text, seed }: Shared): string {
  const fields = new URLSearchParams({ tab });
  if (text && text.length <= mostCharacters) fields.set("text", text);
  if (seed !== null) fields.set("seed", String(seed));
  return `#${fields}`;
}
