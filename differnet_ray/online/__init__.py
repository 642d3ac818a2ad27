"""The online endpoint as a web application. It knows neither Ray nor torch: what scores is given to it."""
