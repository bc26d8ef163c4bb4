(function () {
  "use strict";
  document.querySelectorAll("table.sortable").forEach(function (table) {
    table.querySelectorAll("thead th").forEach(function (heading, column) {
      var button = document.createElement("button");
      button.type = "button";
      while (heading.firstChild) button.appendChild(heading.firstChild);
      heading.appendChild(button);
      button.addEventListener("click", function () {
        var up = heading.getAttribute("aria-sort") === "descending";
        table.querySelectorAll("thead th").forEach(function (each) { each.removeAttribute("aria-sort"); });
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        var body = table.tBodies[0];
        var key = function (row) {
          var figure = row.cells[column].querySelector("[data-figure]");
          var text = figure ? figure.textContent : "";
          if (!heading.classList.contains("num")) return text;
          var number = parseFloat(text.replace(/,/g, ""));
          return isNaN(number) ? null : number;
        };
        Array.from(body.rows).map(function (row) { return [key(row), row]; }).sort(function (a, b) {
          if (a[0] === null || b[0] === null) return (a[0] === null) - (b[0] === null);
          var order = typeof a[0] === "number" ? a[0] - b[0] : a[0].localeCompare(b[0]);
          return up ? order : -order;
        }).forEach(function (pair) { body.appendChild(pair[1]); });
      });
    });
  });
  var copy = document.querySelector("button.copy");
  if (copy && navigator.clipboard) {
    copy.hidden = false;
    copy.addEventListener("click", function () {
      navigator.clipboard.writeText(document.querySelector(".command code").textContent.trim()).then(function () {
        copy.textContent = "Copied";
        setTimeout(function () { copy.textContent = "Copy"; }, 2000);
      });
    });
  }
})();
