/** Makes a heading's anchor as GitHub does. Plain JavaScript, because VitePress's configuration imports it. */
export function anchorOf(heading) {
  return heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, "")
    .replaceAll(" ", "-");
}
