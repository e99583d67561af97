/** The anchor of a heading, made as GitHub makes it. Plain JavaScript, because VitePress's configuration imports it. */
export function anchorOf(heading) {
  return heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, "")
    .replaceAll(" ", "-");
}
