// Tooltips for every mark of a picture: by pointer, and by arrow keys once the picture has the focus. And the theme.
(function () {
  "use strict";
  var tip = document.getElementById("tip");
  var shown = null;

  document.querySelectorAll("svg .mark > title").forEach(function (title) {
    title.parentNode.says = title.textContent;  // kept here, so that the browser shows no second tooltip
    title.remove();
  });

  function hide() {
    tip.classList.remove("on");
    if (shown) { shown.classList.remove("lit"); shown = null; }
  }
  function show(mark, x, y) {
    if (shown && shown !== mark) { shown.classList.remove("lit"); }
    shown = mark;
    mark.classList.add("lit");
    if (tip.textContent !== mark.says) { tip.textContent = mark.says; }
    tip.classList.add("on");
    var room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    var below = y + 16 + tip.offsetHeight < window.innerHeight;
    tip.style.left = Math.max(8, Math.min(x + 12, room)) + "px";
    tip.style.top = (below ? y + 16 : Math.max(8, y - tip.offsetHeight - 12)) + "px";
  }

  document.addEventListener("pointermove", function (event) {
    var mark = event.target.closest ? event.target.closest(".mark") : null;
    if (mark && mark.says) { show(mark, event.clientX, event.clientY); } else if (!document.activeElement.matches("svg")) { hide(); }
  });
  document.addEventListener("keydown", function (event) {
    var svg = document.activeElement;
    if (event.key === "Escape") { hide(); return; }
    if (!svg || !svg.matches("svg[role=img]")) { return; }
    var step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) { return; }
    event.preventDefault();
    var marks = Array.prototype.slice.call(svg.querySelectorAll(".mark"));
    if (!marks.length) { return; }
    var at = marks.indexOf(shown);
    go(marks[at < 0 ? (step > 0 ? 0 : marks.length - 1) : (at + step + marks.length) % marks.length]);
  });
  function go(mark) {
    var box = mark.getBoundingClientRect();
    show(mark, box.left + box.width / 2, box.top + box.height / 2);
  }
  document.addEventListener("focusin", function (event) {
    if (event.target.matches("svg[role=img]") && event.target.matches(":focus-visible")) {
      var first = event.target.querySelector(".mark");
      if (first) { go(first); }
    }
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", function () {
    var svg = document.activeElement;
    if (shown && svg && svg.matches("svg[role=img]") && svg.contains(shown)) { go(shown); } else { hide(); }
  }, { passive: true });

  var button = document.getElementById("theme");
  var root = document.documentElement;
  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  function label() {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", "Switch to " + (isDark() ? "light" : "dark") + " colours");
    button.setAttribute("aria-pressed", root.dataset.theme ? "true" : "false");
  }
  button.addEventListener("click", function () { root.dataset.theme = isDark() ? "light" : "dark"; label(); });
  label();
})();
