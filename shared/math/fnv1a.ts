/** FNV-1a over UTF-16 units, uint32; fast, not cryptographic. `hash`: the hash of the preceding text, to continue it. */
export function fnv1a(text: string, hash: number = 0x811c9dc5): number {
  let mixed = hash;
  for (let i = 0; i < text.length; i++) mixed = Math.imul(mixed ^ text.charCodeAt(i), 0x01000193);
  return mixed >>> 0;
}
