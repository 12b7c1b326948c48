// A round mark with the first letter of a name, in a colour that belongs to the name.

const hue = (name) => [...name].reduce((sum, c) => (sum * 31 + c.codePointAt(0)) % 360, 7);

export function avatar(name) {
  const mark = document.createElement("span");
  mark.className = "avatar";
  mark.ariaHidden = "true";
  mark.style.setProperty("--hue", hue(name));
  mark.textContent = [...name][0]?.toUpperCase() ?? "?";
  return mark;
}
