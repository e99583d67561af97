/** Shows tokens that the user can choose by pointer, tap or keys. A token's colour shows how adapters or the user's text changed it. */
import { make, roveFocus } from "./elements.ts";
import { differenceOf, type Piece } from "./pieces.ts";
import { likelier, readableToken, shareStepOf, stepOf } from "./words.ts";

/** Returns a function that appends a token. `onTell` is called with a token that the user chooses, or points at if it has a source. */
export function tokenText(
  container: HTMLElement,
  onTell: (piece: Piece, isChosen: boolean) => void,
): (element: HTMLElement, piece: Piece) => void {
  const pieces = new WeakMap<Element, Piece>();
  roveFocus(container, ".token");
  const tell = ({ target, type }: Event) => {
    const token = (target as Element).closest<HTMLElement>(".token");
    if (!token || (type === "pointerover" && !token.dataset.share)) return;
    container.querySelector("[aria-current]")?.removeAttribute("aria-current");
    token.setAttribute("aria-current", "true");
    onTell(pieces.get(token)!, type !== "pointerover");
  };
  container.addEventListener("pointerover", tell);
  container.addEventListener("focusin", tell);
  container.addEventListener("click", ({ target }) => {
    (target as Element).closest<HTMLElement>(".token")?.focus();
  });
  return (element, piece) => {
    const isFirst = container.querySelector(".token") === null;
    const token = make("span", { class: "token", role: "button", tabindex: isFirst ? 0 : -1 }, piece.text);
    if (piece.text.trim() === "") token.setAttribute("aria-label", readableToken(piece.text));
    const difference = differenceOf(piece);
    if (difference !== null) token.title = likelier(difference, "the adapters", "the base");
    if (piece.source) token.dataset.share = shareStepOf(piece.source.share);
    else if (difference !== null) token.dataset.step = stepOf(difference);
    pieces.set(token, piece);
    element.append(token);
  };
}
