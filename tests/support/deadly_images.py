"""Images that kill or hold the process that works on them: faults that Python loads when it starts, as `sitecustomize.py`.

They do what a damaged C library would do, at images that can be told from others.
"""

POISON = b"poison"  # the comment of an image that kills its decoder
ENDLESS = b"endless"  # and of one that it never gets done with

DECODER_FAULT = f"""
import os, time, PIL.Image, PIL.ImageFile
def faulty(load):
    def loaded(self):
        if self.info.get("comment") == {POISON!r}:
            os.abort()
        while self.info.get("comment") == {ENDLESS!r}:
            time.sleep(1)
        return load(self)
    return loaded
PIL.Image.Image.load = faulty(PIL.Image.Image.load)
PIL.ImageFile.ImageFile.load = faulty(PIL.ImageFile.ImageFile.load)
"""

# A white image kills the actor that scores it or maps its gradient
ACTOR_FAULT = """
import importlib.abc, importlib.util, os, signal, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "differnet_ray.pipeline.stages":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def loaded(module):
            load(module)
            image = module._image
            def deadly(pixels, stored):
                if pixels.count(255) == len(pixels):
                    os.kill(os.getpid(), signal.SIGKILL)
                return image(pixels, stored)
            module._image = deadly
        spec.loader.exec_module = loaded
        return spec
sys.meta_path.insert(0, Finder())
"""
